"""Environments from an index of the administrator's, by the chart's values: authority, login, extra index, network."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from certificates import Authority
from conftest import Manifest, Platform, condition, restricted
from manifests import training_job
from ultramarine_cluster import target
from ultramarine_contract.storage import parse_uri
from ultramarine_operator.shared.podspec import CONTAINER_SECURITY, POD_SECURITY
from unit.packages import source, wheel

pytestmark = pytest.mark.slow

NAMESPACE = "ultramarine-index"
HOST = f"index.{NAMESPACE}.svc"
LOGIN, WRONG = "ada", "wrong-password"
NEEDS_COMPILER = """
import sys
print("error: command 'gcc' failed: No such file or directory", file=sys.stderr)
sys.exit(1)
"""
FILES = [
    wheel("alpha", "1.0"),
    wheel("alpha", "2.0"),
    wheel("beta", "1.0", ("alpha<2",)),
    wheel("extra", "1.0"),
    source("gamma", "1.0", NEEDS_COMPILER),
]
# Has packages of both indexes, and no way to either.
USES = f"""
import socket, sys, time
import alpha, extra

def reached():
    try:
        socket.create_connection(({HOST!r}, 8443), timeout=2).close()
    except OSError:
        return False
    return True

end = time.monotonic() + 30
while (found := reached()) and time.monotonic() < end:
    time.sleep(1)
print(f"alpha={{alpha.VERSION}} extra={{extra.VERSION}} index={{int(found)}}", flush=True)
open(sys.argv[1] + "/done", "w").write("yes")
"""
PACKAGES = {"environment": {"requirements": ["alpha", "extra"]}}


def certificates(folder: Path) -> tuple[dict[str, str], str]:
    """Return certificates of two authorities with their keys, by file name, and the first authority."""
    authorities = {name: Authority() for name in ("known", "unknown")}
    files = {}
    for name, authority in authorities.items():
        authority.issue(folder / name, HOST)
        files |= {f"{name}.{suffix}": (folder / name / f"tls.{suffix}").read_text() for suffix in ("crt", "key")}
    return files, authorities["known"].pem


def secret_of(password: str) -> Manifest:
    """The Secret with the login, as a netrc."""
    netrc = f"machine {HOST} login {LOGIN} password {password}\n"
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "package-index"}, "stringData": {"netrc": netrc}}


def index_pod(image: str) -> list[Manifest]:
    """The index and its Service."""
    authorization = "Basic " + base64.b64encode(f"{LOGIN}:secret".encode()).decode()
    sources = {
        "program": {"configMap": {"name": "index-program"}},
        "files": {"configMap": {"name": "index-files"}},
        "certificates": {"secret": {"secretName": "index-certificates"}},
    }
    container = {
        "name": "index",
        "image": image,
        "command": ["python", "/mnt/program/index_server.py"],
        "env": [{"name": "AUTHORIZATION", "value": authorization}],
        "readinessProbe": {"tcpSocket": {"port": 8443}, "periodSeconds": 1},
        "securityContext": CONTAINER_SECURITY,
        "volumeMounts": [{"name": name, "mountPath": f"/mnt/{name}"} for name in sources],
    }
    spec = {
        "securityContext": POD_SECURITY,
        "automountServiceAccountToken": False,
        "containers": [container],
        "volumes": [{"name": name, **volume} for name, volume in sources.items()],
    }
    labels = {"app": "index"}
    ports = [{"name": str(port), "port": port} for port in (8443, 8444)]
    return [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "index", "labels": labels}, "spec": spec},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "index"},
            "spec": {"selector": labels, "ports": ports},
        },
    ]


@pytest.fixture(scope="module")
def indexed(
    platform: Platform, embedded: target.Target, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Platform]:
    """The platform once more, with an index in its namespace that needs an authority and a login."""
    restricted(embedded, NAMESPACE)
    made = Platform(embedded, NAMESPACE)
    tls, authority = certificates(tmp_path_factory.mktemp("certificates"))
    packed = {name: base64.b64encode(content).decode() for name, content in FILES}
    program = (Path(__file__).parent / "index_server.py").read_text()
    config_map = {"apiVersion": "v1", "kind": "ConfigMap"}
    settled = [
        {**config_map, "metadata": {"name": "own-index-ca"}, "data": {"ca.crt": authority}},
        {**config_map, "metadata": {"name": "index-program"}, "data": {"index_server.py": program}},
        {**config_map, "metadata": {"name": "index-files"}, "binaryData": packed},
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "index-certificates"}, "stringData": tls},
        secret_of("secret"),
    ]
    rule = '{"to":[{"podSelector":{"matchLabels":{"app":"index"}}}],"ports":[{"port":8443},{"port":8444}]}'
    values = (
        f'environments.indexUrl="https://{HOST}:8443/simple"',
        f'environments.extraIndexUrls=["https://{HOST}:8443/extra"]',
        'environments.secretName="package-index"',
        'environments.ca.configMap="own-index-ca"',
        f"environments.egress=[{rule}]",
    )
    image = platform.settings.images.trainer
    try:
        made.kubectl("apply", "-f", "-", input=yaml.safe_dump_all([*settled, *index_pod(image)]))
        target.install(embedded, NAMESPACE, "crds.install=false", *values)
        made.kubectl("wait", "--for=condition=Ready", "pod/index", "--timeout=120s")
        yield made
    finally:
        subprocess.run([*embedded.helm, "uninstall", "ultramarine", "--namespace", NAMESPACE], check=False)
        embedded.run("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=300s")


def environment(name: str, *requirements: str) -> Manifest:
    """An Environment with these lines."""
    spec = {"python": {"requirements": list(requirements)}}
    return {"kind": "Environment", "metadata": {"name": name}, "spec": spec}


@pytest.fixture(scope="module")
def built(indexed: Platform) -> dict[str, Manifest]:
    """Statuses of a job with packages of both indexes, and of Environments that cannot be built."""
    other = f"--extra-index-url https://{HOST}:8444/simple"
    away = f"--extra-index-url https://{HOST}:8445/simple"
    indexed.apply(
        training_job("uses", USES, **PACKAGES),
        environment("conflict", "alpha==2.0", "beta"),
        environment("compiler", "gamma"),
        environment("authority", "alpha", other),
        environment("away", "alpha", away),
    )

    def is_over(status: Manifest) -> bool:
        reason = condition(status, "Ready").get("reason", "")
        return status.get("state") in ("Ready", "Failed") or reason == "IndexUnreachable"

    ended = {"uses": indexed.ended("uses", 300)}
    names = ("conflict", "compiler", "authority", "away")
    return ended | {name: indexed.wait("environment", name, is_over, 300) for name in names}


def test_a_job_has_packages_of_both_indexes_and_reaches_neither(built):
    """Builders trust the authority, log in and reach the index; a job's pod has its packages and no way there."""
    status = built["uses"]
    assert status["state"] == "Succeeded", status
    latest = status["metrics"]["latest"]
    assert (latest["alpha"], latest["extra"], latest["index"]) == (2, 1, 0)


@pytest.mark.parametrize(
    ("name", "reason", "words"),
    [
        ("conflict", "Unsatisfiable", "beta depend on alpha<2 and you require alpha==2.0"),
        ("compiler", "BuildFailed", "gamma==1.0 has no wheel for this Python, and its build failed: error: command"),
        ("authority", "CertificateUnknown", "check the index in line 2 of the requirements"),
    ],
)
def test_a_build_that_cannot_succeed_fails_in_words(built, name, reason, words):
    """The condition has the resolver's words and the remedy."""
    failed = condition(built[name], "Failed")
    assert failed["reason"] == reason
    assert words in failed["message"]


def test_an_index_that_does_not_answer_is_tried_again(built):
    """The Environment is not failed: another attempt follows by itself."""
    ready = condition(built["away"], "Ready")
    assert ready["reason"] == "IndexUnreachable"
    assert "attempt 1: " in ready["message"]
    assert "the next attempt follows by itself" in ready["message"]


def test_a_wrong_login_is_named_without_its_password(indexed, built):
    """The Secret is read by each build; the remedy names where it is set."""
    indexed.kubectl("apply", "-f", "-", input=yaml.safe_dump(secret_of(WRONG)))
    indexed.apply(environment("login", "alpha"))
    status = indexed.wait("environment", "login", lambda status: status.get("state") in ("Ready", "Failed"), 240)
    failed = condition(status, "Failed")
    assert failed["reason"] == "IndexUnauthorized"
    assert "environments.secretName" in failed["message"]
    assert WRONG not in failed["message"]


def test_an_archive_that_was_changed_in_the_bucket_is_refused(indexed, built):
    """The pod compares the digest before the command runs, and the job fails with it."""
    pin = built["uses"]["provenance"]
    place = parse_uri(pin["environmentUri"])
    with indexed.target.bucket(NAMESPACE) as storage:
        content = storage.get_object(Bucket=place.bucket, Key=place.key)["Body"].read()
        storage.put_object(Bucket=place.bucket, Key=place.key, Body=content[:-1] + bytes([content[-1] ^ 1]))
    indexed.apply(training_job("tampered", USES, **PACKAGES))
    status = indexed.ended("tampered")
    assert (status["state"], status["failure"]["reason"]) == ("Failed", "DigestMismatch")
    assert pin["environmentDigest"] in condition(status, "Failed")["message"]
