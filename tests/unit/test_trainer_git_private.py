"""Private repositories on real servers: https with a password or token and a CA of one's own, ssh with a key."""

from __future__ import annotations

import ipaddress
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from gitserver import GitServer, Setup, key_pair
from ports import free_port
from ultramarine_contract import common as contract
from ultramarine_contract.source_records import SourceTask
from ultramarine_contract.storage import Storage
from ultramarine_contract.training_records import SourceRecord, TrainingTask
from ultramarine_trainer.data.credentials import SourceError
from ultramarine_trainer.data.fetching import fetch
from ultramarine_trainer.data.git import check_out
from ultramarine_trainer.data.source import prepare

Serve = Callable[..., GitServer]
TOKEN = "s3cr3t-token"
FILES = {"train.py": "print(1)", "src/model.py": "version = 1"}
KEY, PUBLIC = key_pair()
HOST_KEY, HOST_PUBLIC = key_pair()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start git servers."""
    running: list[GitServer] = []

    def start(**setup: Any) -> GitServer:
        given = {"files": FILES, "authorized_key": PUBLIC, "host_key": HOST_KEY} | setup
        running.append(GitServer(Setup(**given), tmp_path / f"repository-{len(running)}"))
        return running[-1]

    yield start
    for server in running:
        server.close()


@pytest.fixture
def fetched(tmp_path: Path, storage: Storage) -> Any:
    """Fetch with a Secret in one container, and prepare the source in another that has no credentials."""

    def run(url: str, secret: dict[str, str] | None, **task: str) -> tuple[dict[str, str], SourceRecord]:
        source = SourceTask(git_url=url, git_secret="churn-git", **task)
        credentials, mounted, work = tmp_path / "credentials", tmp_path / "mounted", tmp_path / "work"
        for folder in (credentials, mounted):
            folder.mkdir()
        for name, text in (secret or {}).items():
            (credentials / name).write_text(text)
        line = fetch(TrainingTask(source=source), credentials, mounted)
        for value in (secret or {}).values():
            assert value.strip() not in line + (mounted / "record.json").read_text()
        for path in credentials.iterdir():
            path.unlink()
        record = prepare(source, mounted, work, storage)
        return {p.relative_to(work).as_posix(): p.read_text() for p in sorted(work.rglob("*")) if p.is_file()}, record

    return run


def authority(*names: str) -> tuple[str, str]:
    """A CA's certificate, and one that it made for these addresses, with its key."""
    made = []
    issuer: tuple[x509.Name, ec.EllipticCurvePrivateKey] | None = None
    for common in ("ca", "server"):
        key, name = (
            ec.generate_private_key(ec.SECP256R1()),
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)]),
        )
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(issuer[0] if issuer else name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(datetime.now(UTC) - timedelta(hours=1))
            .not_valid_after(datetime.now(UTC) + timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        )
        if issuer:
            addresses = [x509.IPAddress(ipaddress.ip_address(address)) for address in names]
            builder = builder.add_extension(x509.SubjectAlternativeName(addresses), critical=False)
        signed = builder.sign(issuer[1] if issuer else key, hashes.SHA256())
        plain = serialization.NoEncryption()
        private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
        made.append((signed.public_bytes(serialization.Encoding.PEM).decode(), private.decode()))
        issuer = (name, key)
    return made[0][0], made[1][0] + made[1][1]


def http(server: GitServer) -> str:
    return f"http://127.0.0.1:{server.http_port}/private.git"


def ssh(server: GitServer, path: str = "/private.git") -> str:
    return f"ssh://git@127.0.0.1:{server.ssh_port}{path}"


def known(server: GitServer, key: str = HOST_PUBLIC) -> str:
    return f"# scanned\n[127.0.0.1]:{server.ssh_port} {key}\n"


@pytest.mark.parametrize(
    ("secret", "username"),
    [
        ({"username": "tess", "password": TOKEN}, "tess"),
        ({"token": TOKEN}, ""),
        ({"token": f"{TOKEN}\n"}, ""),
    ],
)
def test_a_password_or_a_token_opens_a_repository(
    serve: Serve, fetched: Any, secret: dict[str, str], username: str
) -> None:
    """The Secret of type basic-auth, or a token alone, also with the line's end that editors leave."""
    server = serve(username=username)

    assert fetched(http(server), secret) == (FILES, SourceRecord(commit=server.commit))


def test_a_server_with_a_ca_of_its_own(serve: Serve, fetched: Any) -> None:
    """ca.crt of the Secret is what the server's certificate is checked against."""
    ca, certificate = authority("127.0.0.1")
    server = serve(certificate=certificate)
    files, _ = fetched(f"https://127.0.0.1:{server.http_port}/private.git", {"token": TOKEN, "ca.crt": ca})

    assert files == FILES


def test_a_ca_of_the_platform(serve: Serve, fetched: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without ca.crt in the Secret the file that the platform names has the say."""
    ca, certificate = authority("127.0.0.1")
    (tmp_path / "bundle").write_text(ca)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "bundle"))
    server = serve(certificate=certificate)

    assert fetched(f"https://127.0.0.1:{server.http_port}/private.git", {"token": TOKEN})[0] == FILES


def test_a_proxy_is_the_way_out(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repository is asked for by the platform's proxy, unless NO_PROXY has its host."""
    asked: list[str] = []

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(403)

    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.server_port}")
        with pytest.raises(SourceError):
            check_out(SourceTask(git_url="http://git.lab/churn.git"), tmp_path / "one")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1,.svc")
        server = serve()
        url = f"http://127.0.0.1:{server.http_port}/churn.git"
        assert check_out(SourceTask(git_url=url), tmp_path / "two") == server.commit
        proxy.shutdown()
    assert asked
    assert all(path.startswith("http://git.lab/churn.git/") for path in asked)


@pytest.mark.attack("training/git-server")
def test_a_certificate_of_an_unknown_ca_gets_no_token(serve: Serve, fetched: Any) -> None:
    """Without ca.crt the remedy is told, and the token stays here."""
    server = serve(certificate=authority("127.0.0.1")[1])
    with pytest.raises(SourceError, match=r"put its CA as ca\.crt into Secret churn-git") as caught:
        fetched(f"https://127.0.0.1:{server.http_port}/private.git", {"token": TOKEN})

    assert (caught.value.reason, caught.value.transient) == ("GitCertificateUnknown", False)
    assert not server.asked_with


@pytest.mark.parametrize("form", ["hashed", "plain", "authority"])
def test_a_key_opens_a_repository_on_a_known_host(serve: Serve, fetched: Any, form: str) -> None:
    """known_hosts is as ssh-keyscan prints it, with hashed names, or with a pattern."""
    server = serve()
    lines = known(server)
    if form == "hashed":
        lines = hashed(f"[127.0.0.1]:{server.ssh_port}", HOST_PUBLIC)
    if form == "authority":
        lines = f"[127.0.0.*]:* {HOST_PUBLIC}"
    files, record = fetched(ssh(server), {"ssh-privatekey": KEY, "known_hosts": lines}, git_path="src")

    assert (files, record.commit) == ({"model.py": "version = 1"}, server.commit)


def hashed(host: str, key: str) -> str:
    """A line of known_hosts as ssh-keygen -H makes it."""
    import base64
    import hashlib
    import hmac

    salt = os.urandom(20)
    digest = hmac.new(salt, host.encode(), hashlib.sha1).digest()
    return f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()} {key}\n"


@pytest.mark.parametrize(
    ("secret", "reason", "transient", "words"),
    [
        (None, "GitCredentialsNotFound", True, "Secret churn-git not found, or empty; create it"),
        (
            {"user": "tess"},
            "GitCredentialsInvalid",
            True,
            "has no key password, token, ssh-privatekey or ca.crt (it has",
        ),
        ({"ssh-privatekey": KEY}, "GitCredentialsInvalid", True, "has no key password or token (it has: ssh-priv"),
        ({"token": "wrong"}, "GitCredentialsRefused", False, "refused the credentials in Secret churn-git"),
    ],
)
def test_what_is_wrong_with_a_secret_for_https_is_told(
    serve: Serve, fetched: Any, secret: Any, reason: str, transient: bool, words: str
) -> None:
    """A missing Secret, one without a usable key, and one whose token the server does not take are told apart."""
    with pytest.raises(SourceError) as caught:
        fetched(http(serve()), secret)

    assert (caught.value.reason, caught.value.transient) == (reason, transient)
    assert words in caught.value.message


@pytest.mark.attack(
    "training/git-server",
    asset="credentials of a private repository",
    threat="another server takes the repository's place",
    control="host keys must be in `known_hosts`, certificates must be of a known CA, and what is checked comes "
    "before what is sent",
)
@pytest.mark.parametrize(
    ("secret", "reason", "words"),
    [
        ({"token": TOKEN}, "GitCredentialsInvalid", "has no key ssh-privatekey (it has: token)"),
        ({"ssh-privatekey": KEY}, "GitCredentialsInvalid", "has no key known_hosts (it has: ssh-privatekey)"),
        ({"ssh-privatekey": "no key", "known_hosts": "HOST"}, "GitCredentialsInvalid", "without a passphrase"),
        ({"ssh-privatekey": "LOCKED", "known_hosts": "HOST"}, "GitCredentialsInvalid", "without a passphrase"),
        ({"ssh-privatekey": key_pair()[0], "known_hosts": "HOST"}, "GitCredentialsRefused", "for user git; add its"),
        ({"ssh-privatekey": KEY, "known_hosts": "example.com ssh-ed25519 AAAA"}, "GitHostKeyUnknown", "ssh-keyscan -p"),
        ({"ssh-privatekey": KEY, "known_hosts": "OTHER"}, "GitHostKeyChanged", "has another host key (ssh-ed25"),
        ({"ssh-privatekey": KEY, "known_hosts": "github.com"}, "GitCredentialsInvalid", "what ssh-keyscan prints"),
    ],
    ids=["no key", "no hosts", "nonsense", "locked", "refused", "unknown", "changed", "no line of hosts"],
)
def test_what_is_wrong_with_a_secret_for_ssh_is_told(
    serve: Serve, fetched: Any, secret: dict[str, str], reason: str, words: str
) -> None:
    """Keys that are missing, unreadable, locked or refused, and hosts that are unknown or have changed."""
    server = serve()
    made = {
        "HOST": known(server),
        "OTHER": known(server, key_pair()[1]),
        "LOCKED": asyncssh.import_private_key(KEY).export_private_key("pkcs8-pem", passphrase="x").decode(),
    }
    with pytest.raises(SourceError) as caught:
        fetched(ssh(server), {name: made.get(text, text) for name, text in secret.items()})

    assert caught.value.reason == reason
    assert words in caught.value.message


def test_a_repository_that_an_ssh_server_does_not_have(serve: Serve, fetched: Any) -> None:
    """What the server says is told."""
    server = serve()
    with pytest.raises(SourceError, match=r"cannot be read \(Repository /other.git not found") as caught:
        fetched(ssh(server, "/other.git"), {"ssh-privatekey": KEY, "known_hosts": known(server)})

    assert caught.value.reason == "SourceNotFound"


@pytest.mark.parametrize("scheme", ["http", "ssh"])
def test_a_server_that_is_away_is_told_in_the_same_words_each_time(fetched: Any, tmp_path: Path, scheme: str) -> None:
    """Whoever compares two attempts sees that nothing has changed; it may pass, so it is worth another one."""
    port, secret = free_port(), {"token": TOKEN, "ssh-privatekey": KEY, "known_hosts": f"* {HOST_PUBLIC}"}
    user = "git@" if scheme == "ssh" else ""
    with pytest.raises(SourceError) as caught:
        fetched(f"{scheme}://{user}127.0.0.1:{port}/private.git", secret)

    assert (caught.value.reason, caught.value.transient) == ("SourceUnreachable", True)
    assert (
        f"127.0.0.1:{port}/private.git does not answer (Connection refused); check the address" in caught.value.message
    )


def test_the_init_container_ends_well_and_leaves_a_record(serve: Serve, tmp_path: Path, monkeypatch: Any) -> None:
    """The program does what its environment says; of a failure the trainer tells, so its own exit code is 0."""
    task = TrainingTask(source=SourceTask(git_url=http(serve()), git_secret="churn-git"))
    program = (
        "import sys; from pathlib import Path; from ultramarine_contract import common as contract\n"
        "contract.CREDENTIALS_DIR, contract.SOURCE_DIR = sys.argv[1:]\n"
        "from ultramarine_trainer.data.storing import main; sys.exit(main())"
    )
    made = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "none"), str(tmp_path)],
        env=os.environ | {contract.ENV_TASK: task.to_json()},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (made.returncode, made.stdout) == (0, "")
    assert made.stderr.startswith("ultramarine-source: GitCredentialsNotFound: Secret churn-git not found, or empty")
    assert json.loads((tmp_path / "record.json").read_text())["reason"] == "GitCredentialsNotFound"
