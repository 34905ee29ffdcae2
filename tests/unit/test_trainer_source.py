"""Where training code comes from: mounts, archives in a real S3 server, and repositories on a real git server."""

from __future__ import annotations

import gzip
import io
import socket
import tarfile
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from dulwich import porcelain
from dulwich.objects import ObjectID
from dulwich.refs import Ref
from dulwich.repo import Repo
from dulwich.server import DictBackend
from dulwich.web import HTTPGitApplication, WSGIRequestHandlerLogger, WSGIServerLogger, make_server
from ultramarine_contract import common as contract
from ultramarine_contract import meta
from ultramarine_contract.source_records import SourceTask
from ultramarine_contract.storage import Storage
from ultramarine_contract.training_records import SourceRecord, TerminationRecord, TrainingTask
from ultramarine_trainer.data.credentials import SourceError
from ultramarine_trainer.data.git import _commit_of
from ultramarine_trainer.data.source import prepare
from ultramarine_trainer.data.storing import main, store

AUTHOR = b"Ada <ada@example.com>"


@dataclass
class GitServer:
    """A repository that is served by http."""

    url: str
    commits: list[str]


@pytest.fixture
def git(tmp_path: Path) -> Iterator[GitServer]:
    """Two commits on main, the first one tagged and with a branch, files at the top and in a folder."""
    folder = tmp_path / "repository"
    repository = porcelain.init(str(folder))
    commits = []
    for number in (1, 2):
        (folder / "src").mkdir(exist_ok=True)
        (folder / "train.py").write_text(f"print({number})")
        (folder / "src/model.py").write_text(f"version = {number}")
        porcelain.add(str(folder), [str(folder / "train.py"), str(folder / "src/model.py")])
        commits.append(porcelain.commit(str(folder), message=b"work", author=AUTHOR, committer=AUTHOR).decode())
        if number == 1:
            porcelain.tag_create(str(folder), b"v1", message=b"first", author=AUTHOR, annotated=True)
            porcelain.branch_create(str(folder), b"team/old")
    backend = DictBackend({"/churn.git": repository})
    server = make_server(
        "127.0.0.1",
        0,
        HTTPGitApplication(backend),
        handler_class=WSGIRequestHandlerLogger,
        server_class=WSGIServerLogger,
    )
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield GitServer(f"http://127.0.0.1:{server.server_port}/churn.git", commits)
    server.shutdown()
    repository.close()


def archive(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """A .tar.gz of these members."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def link(name: str, target: str, type: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    """A link as a member of an archive."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = type, target
    return info


def too_long(lead: str = "") -> bytes:
    """A chain of links to folders whose path is longer than the system follows, with a way out at its end.

    The members at its end have names that begin with `lead`.
    """
    members, where = [], ""
    for name in "abcdefghijklmnop":
        folder = name * 247
        members += [(link(f"{where}{folder}/", "", tarfile.DIRTYPE), b""), (link(f"{where}{name}", folder), b"")]
        where += f"{folder}/"
    short = "/".join("abcdefghijklmnop")
    members += [
        (link(f"{lead}{short}/{'l' * 254}", "../" * 16), b""),
        (tarfile.TarInfo(f"{lead}{short}/{'l' * 254}/../evil.py"), b"x"),
        (link("escape", f"{short}/{'l' * 254}/../../work"), b""),
    ]
    return archive(*members, (tarfile.TarInfo("escape/evil.py"), b"x"))


@pytest.fixture
def fetched(tmp_path: Path, storage: Storage) -> Any:
    """Fetch a source into an empty folder; what is there then, and what is said of it."""

    def fetch(**task: str) -> tuple[dict[str, str], SourceRecord]:
        work = tmp_path / "work"
        record = prepare(SourceTask(**task), tmp_path / "mounted", work, storage)
        return {p.relative_to(work).as_posix(): p.read_text() for p in sorted(work.rglob("*")) if p.is_file()}, record

    return fetch


@pytest.mark.parametrize(
    ("ref", "number"), [("", 2), ("master", 2), ("team/old", 1), ("v1", 1), ("refs/heads/master", 2), ("COMMIT", 2)]
)
def test_a_ref_is_a_branch_a_tag_or_a_commit(git: GitServer, fetched: Any, ref: str, number: int) -> None:
    """Each names one commit, whose files are there, and the record says which one it was."""
    files, record = fetched(git_url=git.url, git_ref=git.commits[1] if ref == "COMMIT" else ref)

    assert files == {"train.py": f"print({number})", "src/model.py": f"version = {number}"}
    assert record == SourceRecord(commit=git.commits[number - 1])


def test_only_the_commit_asked_for_is_fetched(
    git: GitServer, tmp_path: Path, monkeypatch: Any, storage: Storage
) -> None:
    """The history stays where it is: what is fetched has no parent."""
    seen = []
    close = Repo.close
    monkeypatch.setattr(Repo, "close", lambda self: (seen.append(set(self.get_shallow())), close(self)))
    prepare(SourceTask(git_url=git.url), tmp_path / "mounted", tmp_path / "work", storage)

    assert {git.commits[1].encode()} in seen


def test_a_folder_of_a_repository(git: GitServer, fetched: Any) -> None:
    """With a path only what lies in that folder is taken."""
    assert fetched(git_url=git.url, git_path="src")[0] == {"model.py": "version = 2"}


@pytest.mark.parametrize(
    ("task", "reason", "words"),
    [
        ({"git_ref": "gone"}, "GitRefNotFound", "has no branch, tag or commit 'gone'; its branches are: master, old"),
        ({"git_ref": "f" * 40}, "GitRefNotFound", "f" * 40),
        ({"git_path": "gone"}, "GitPathNotFound", "spec.source.git.path gone is not in"),
        ({"git_path": "train.py"}, "GitPathNotFound", "is a file; name its folder"),
        ({"git_url": "http://127.0.0.1:PORT/other.git"}, "SourceNotFound", "there is no git repository at"),
    ],
)
def test_what_is_not_in_the_repository_is_named(
    git: GitServer, fetched: Any, task: Any, reason: str, words: str
) -> None:
    """A ref, a folder or a repository that is not there ends the job, with the field and what there is."""
    port = git.url.split(":")[2].split("/")[0]
    asked = {"git_url": git.url} | {name: value.replace("PORT", port) for name, value in task.items()}
    with pytest.raises(SourceError) as caught:
        fetched(**asked)

    assert (caught.value.reason, caught.value.transient) == (reason, False)
    assert words in caught.value.message


def test_branches_beyond_ten_are_counted() -> None:
    """Of 13 branches ten are named, and the message says once that there are 3 more."""
    refs = {Ref(b"refs/heads/b%02d" % number): ObjectID(b"f" * 40) for number in range(13)}
    with pytest.raises(SourceError) as caught:
        _commit_of(SourceTask(git_url="https://git.example.com/team/code.git", git_ref="gone"), refs)

    assert "branches are: b00, b01" in caught.value.message
    assert caught.value.message.count("and 3 more") == 1


def test_a_git_server_that_is_away_is_worth_another_attempt(fetched: Any) -> None:
    """Nobody answers: the address and the network policies are what to look at, and it may pass."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(SourceError) as caught:
        fetched(git_url=f"http://127.0.0.1:{port}/churn.git")

    assert (caught.value.reason, caught.value.transient) == ("SourceUnreachable", True)
    assert "network policies" in caught.value.message


@pytest.mark.parametrize("compress", [True, False])
def test_an_archive_is_unpacked_and_its_digest_told(
    fetched: Any, storage: Storage, bucket: str, compress: bool
) -> None:
    """Files and folders of a tar archive are there, and the record has the archive's own digest."""
    packed = archive((tarfile.TarInfo("train.py"), b"print(1)"), (tarfile.TarInfo("src/model.py"), b"pass"))
    content = packed if compress else gzip.decompress(packed)
    storage.write(uri := f"s3://{bucket}/code.tar.gz", content)
    digest = f"sha256:{sha256(content).hexdigest()}"

    assert fetched(uri=uri, digest=digest) == ({"train.py": "print(1)", "src/model.py": "pass"}, SourceRecord(digest))


@pytest.mark.attack(
    "author/source-archive",
    asset="files of a pod",
    threat="a source archive with `..`, links that lead outside, devices, or a small one of something huge",
    control="unpacked through Python's `data` filter, 4 GiB at most, and never by way of a link of the archive's "
    "own; its digest is checked first",
)
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (archive((tarfile.TarInfo("../evil.py"), b"x")), "outside"),
        (archive((tarfile.TarInfo("a/../../evil.py"), b"x")), "outside"),
        (archive((link("passwd", "/etc/passwd"), b"")), "is a link to an absolute path"),
        (archive((link("up", "../../secret"), b"")), "outside"),
        (archive((link("hard", "../secret", tarfile.LNKTYPE), b"")), "outside"),
        (archive((link("pipe", "", tarfile.FIFOTYPE), b"")), "special file"),
        (archive((link("d", "."), b""), (tarfile.TarInfo("d/f"), b"x")), "'d/f' goes by 'd', which is a link"),
        (archive((link("f", "g"), b""), (tarfile.TarInfo("f"), b"x")), "'f' goes by 'f', which is a link"),
        (archive((link("d", "."), b""), (link("up", "d/x"), b"")), "'up' goes by 'd', which is a link"),
        (archive((link("d", "."), b""), (link("hard", "d/x", tarfile.LNKTYPE), b"")), "'hard' goes by 'd'"),
        (archive((link("up", "d/.."), b"")), "goes down and up again"),
        (too_long(), "which is a link of the archive"),
        (too_long("/"), "which is a link of the archive"),
        (too_long("x/../"), "goes up"),
        (too_long(".//"), "which is a link of the archive"),
        (archive((tarfile.TarInfo("train.py"), b"x" * 100_000))[:60], "cannot be unpacked"),
        (b"print(1)", "it has to be a tar archive"),
        (b"", "it has to be a tar archive"),
    ],
    ids=lambda value: value if isinstance(value, str) else "archive",  # whose bytes have the time in them
)
def test_archives_that_lead_outside_or_are_none_are_refused(
    fetched: Any, storage: Storage, bucket: str, tmp_path: Path, content: bytes, words: str
) -> None:
    """Paths and links out of the folder, devices, and what is no archive end the job; nothing is written outside."""
    storage.write(uri := f"s3://{bucket}/code.tar.gz", content)
    with pytest.raises(SourceError, match=words) as caught:
        fetched(uri=uri)

    assert caught.value.reason == "SourceInvalid"
    assert {p.name for p in tmp_path.iterdir()} <= {"work"}


@pytest.mark.attack("author/source-archive")
def test_an_archive_that_unpacks_into_too_much_is_refused(
    fetched: Any, storage: Storage, bucket: str, monkeypatch: Any
) -> None:
    """A small archive of something huge is stopped before it fills the disk."""
    monkeypatch.setattr("ultramarine_trainer.data.source.ARCHIVE_LIMIT", 2**20)
    storage.write(uri := f"s3://{bucket}/bomb.tar.gz", archive((tarfile.TarInfo("zeros"), bytes(2**21))))
    with pytest.raises(SourceError, match="holds more than"):
        fetched(uri=uri)


def test_links_within_an_archive_stay(fetched: Any, storage: Storage, bucket: str) -> None:
    """A link to a file or folder beside it, or above, and a link to a link, are what people pack."""
    members = (
        (tarfile.TarInfo("lib/v2.py"), b"2"),
        (link("lib/now.py", "v2.py"), b""),
        (link("now.py", "./lib/now.py"), b""),
    )
    storage.write(uri := f"s3://{bucket}/code.tar.gz", archive(*members, (link("lib/all", "../lib"), b"")))

    assert fetched(uri=uri)[0]["now.py"] == "2"


def test_another_archive_than_the_one_asked_for_is_refused(fetched: Any, storage: Storage, bucket: str) -> None:
    """A digest that does not match is told with both values, before anything is unpacked."""
    storage.write(uri := f"s3://{bucket}/code.tar.gz", archive((tarfile.TarInfo("train.py"), b"print(1)")))
    with pytest.raises(SourceError, match=f"but spec.source.digest is sha256:{'a' * 64}") as caught:
        fetched(uri=uri, digest=f"sha256:{'a' * 64}")
    assert caught.value.reason == "DigestMismatch"


def test_a_config_map_has_the_digest_of_the_same_files_inline(fetched: Any, tmp_path: Path) -> None:
    """Whether code is inline or in a ConfigMap, the same files have the same digest."""
    inline = {"train.py": "print('ä')\n", "model.py": "pass"}
    (tmp_path / "mounted").mkdir()
    for name, text in inline.items():
        (tmp_path / "mounted" / name).write_text(text)

    files, record = fetched(config_map="code")
    assert files == inline
    assert record.digest == f"sha256:{meta.content_hash(inline)}"


def test_a_config_map_that_is_not_there_may_come(fetched: Any) -> None:
    """Its name is told, and another attempt may find it."""
    with pytest.raises(SourceError, match="ConfigMap code is not there, or empty; create it") as caught:
        fetched(config_map="code")
    assert caught.value.transient


def test_a_server_gets_a_repository_or_an_archive_without_older_files(
    git: GitServer, tmp_path: Path, storage: Storage, bucket: str
) -> None:
    """A container that starts again fetches once more."""
    storage.write(uri := f"s3://{bucket}/code.tar.gz", archive((tarfile.TarInfo("score.py"), b"pass")))
    environment = {contract.ENV_STORAGE_ENDPOINT: storage.name}
    folder = tmp_path / "scoring"
    folder.mkdir()
    for task, files in (
        (SourceTask(git_url=git.url, git_ref="v1", git_path="src"), ["model.py"]),
        (SourceTask(uri=uri), ["score.py"]),
    ):
        (folder / "link").symlink_to(tmp_path)
        store(task, environment, tmp_path, folder)
        assert [path.name for path in folder.iterdir()] == files


def test_a_script_that_cannot_be_fetched_is_the_containers_failure(
    git: GitServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record names the field within the source, which scripts and requirements have in other places."""
    log = tmp_path / "termination-log"
    task = TrainingTask(source=SourceTask(git_url=git.url, git_ref="v9"))
    monkeypatch.setattr(contract, "TERMINATION_LOG", str(log))
    monkeypatch.setenv(contract.ENV_TASK, task.to_json())
    monkeypatch.setattr("sys.argv", ["ultramarine-source", "--to", str(tmp_path / "scoring")])
    (tmp_path / "scoring").mkdir()
    assert main() == 1
    record = TerminationRecord.from_json(log.read_text())
    assert record.reason == "GitRefNotFound"
    assert record.message.endswith("; correct source.git.ref")
