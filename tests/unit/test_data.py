"""Files between a machine and the object storage: parts, interruptions, names, full disks, and words for mistakes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cutting import CuttingProxy
from ports import free_port
from ultramarine.storage.data import Data, RemoteNotFound
from ultramarine.storage.work import FileInvalid, Parts
from ultramarine_contract.errors import StorageError, UltramarineError
from ultramarine_contract.objects import Objects
from ultramarine_contract.storage import Keys, Storage
from unit.conftest import ObjectStore, eventually, serving_store

LARGE = 80 * 1024 * 1024  # ten parts
PUT = """
import sys
from pathlib import Path
from unit.test_data import Namespace, data_of
data = data_of(*sys.argv[1:4])
getattr(data, sys.argv[4])(sys.argv[5], sys.argv[6])
"""


@dataclass
class Namespace:
    """The part of a platform that files need."""

    storage: Storage
    prefix: str
    problem: UltramarineError | None = None
    cluster: Any = field(default_factory=lambda: SimpleNamespace(namespace="team-a"))


def data_of(endpoint: str, bucket: str, secret_key: str) -> Data:
    """Return the files of a namespace; the storage's name does not have the proxy's port."""
    storage = Storage(endpoint, keys=Keys("root", secret_key))
    storage.name = "the storage"
    return Data(Namespace(storage, f"s3://{bucket}/team-a/"))  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own."""
    folder = tmp_path / "cache" / "ultramarine"
    monkeypatch.setattr("ultramarine.storage.journal.cache_folder", lambda: folder)
    return folder


@pytest.fixture
def data(object_store: ObjectStore, bucket: str) -> Data:
    """Files of a namespace."""
    return data_of(object_store.endpoint, bucket, object_store.secret_key)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A file of ten parts."""
    path = tmp_path / "large.bin"
    path.write_bytes(random.Random(1).randbytes(LARGE - 5))
    return path


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)], check=False).returncode:
        pytest.skip("this user may not mount a file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def below(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Whole transfers


def test_a_file_goes_and_comes_back(data: Data, tmp_path: Path) -> None:
    """The URI names it, its SHA-256 is beside it, and it is whole."""
    (tmp_path / "churn.csv").write_text("a,b\n1,2\n")
    done = data.put(tmp_path / "churn.csv", "churn/")
    assert done.uri == f"{data.uri('')}churn/churn.csv"
    back = data.get("churn/churn.csv", tmp_path / "back.csv")
    assert (tmp_path / "back.csv").read_text() == "a,b\n1,2\n"
    assert (back.files, back.bytes) == (1, 8)


@pytest.mark.parametrize(
    ("remote", "uri"),
    [("", "table.csv"), ("churn/", "churn/table.csv"), ("churn/new.csv", "churn/new.csv"), ("/x", "x")],
)
def test_a_file_gets_the_name_that_is_given(data: Data, tmp_path: Path, remote: str, uri: str) -> None:
    """A slash means a folder; without a name the file keeps its own."""
    (tmp_path / "table.csv").write_text("1")
    assert data.put(tmp_path / "table.csv", remote).uri == data.uri("") + uri


def test_a_large_file_goes_and_comes_back_in_parts(data: Data, large: Path, tmp_path: Path) -> None:
    """Progress reaches the whole, and nothing but the file is left."""
    counts: list[tuple[int, int]] = []
    data.put(large, "", lambda done, total: counts.append((done, total)))
    assert counts[-1] == (LARGE - 5, LARGE - 5)
    assert counts == sorted(counts)
    (tmp_path / "back").mkdir()
    data.get("large.bin", tmp_path / "back")
    assert [path.name for path in (tmp_path / "back").iterdir()] == ["large.bin"]
    assert (tmp_path / "back" / "large.bin").read_bytes() == large.read_bytes()
    assert data.put(large).skipped == 1
    assert data.get("large.bin", tmp_path / "back").skipped == 1


def test_a_folder_skips_what_has_not_changed(data: Data, tmp_path: Path) -> None:
    """Of many files only the changed and the new are sent."""
    folder = tmp_path / "many"
    for number in range(300):
        path = folder / f"{number % 7}" / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"row {number}")
    assert data.put(folder, "many").skipped == 0
    (folder / "0" / "0.txt").write_text("row X")
    (folder / "new.txt").write_text("new")
    done = data.put(folder, "many")
    assert (done.files, done.skipped) == (301, 299)
    data.get("many/", tmp_path / "back")
    assert below(tmp_path / "back") == below(folder)


@pytest.mark.parametrize(
    "name", ["mit Leerzeichen.csv", "Größe.csv", "a+b&c=d?.csv", "100% sure.csv", "#1.csv", "數據"]
)
def test_names_are_kept(data: Data, tmp_path: Path, name: str) -> None:
    """Spaces, umlauts and signs of URLs are part of a name, on the way there and back."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / name).write_text(name)
    data.put(tmp_path / "folder", "names")
    assert [data.name(entry.uri) for entry in data.ls("names")] == [f"names/{name}"]
    data.get("names", tmp_path / "back")
    assert below(tmp_path / "back") == {name: name.encode()}


def test_links_inside_a_folder_are_followed_and_others_refused(data: Data, tmp_path: Path) -> None:
    """A link that leads out of the folder is named."""
    folder = tmp_path / "linked"
    folder.mkdir()
    (folder / "a.csv").write_text("1")
    (folder / "b.csv").symlink_to("a.csv")
    assert data.put(folder).files == 2
    (folder / "c.csv").symlink_to("/etc/passwd")
    with pytest.raises(StorageError, match=r"c\.csv cannot be stored: it is a link that leads out"):
        data.put(folder)


def test_a_list_of_files_of_the_users_own_is_a_file(data: Data, tmp_path: Path) -> None:
    """A dataset may have a manifest.json."""
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "manifest.json").write_text("{}")
    assert data.put(tmp_path / "set").files == 1


def test_concurrent_writers_leave_a_whole_object(data: Data, tmp_path: Path) -> None:
    """The object is that of one writer; the others may hear that another one wrote it."""
    contents = [bytes([number]) * 20_000_000 for number in range(4)]
    for number, content in enumerate(contents):
        (tmp_path / str(number)).write_bytes(content)
    reasons: list[str] = []

    def put(number: int) -> None:
        try:
            data.put(tmp_path / str(number), "same.bin")
            reasons.append("")
        except StorageError as error:
            reasons.append(error.reason)

    threads = [threading.Thread(target=put, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert "" in reasons
    assert set(reasons) <= {"", "ObjectChanged"}
    data.get("same.bin", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() in contents


# Interruptions


def begin(data: Data, proxy: CuttingProxy, cache: Path, verb: str, *words: str) -> subprocess.Popen[bytes]:
    """Start a transfer in a process of its own, through a proxy."""
    bucket = data.uri("").split("/")[2]
    path = os.pathsep.join(path for path in sys.path if path)
    return subprocess.Popen(
        [sys.executable, "-c", PUT, proxy.endpoint, bucket, "test-secret", verb, *words],
        env={**os.environ, "PYTHONPATH": path, "XDG_CACHE_HOME": str(cache.parent)},
    )


def recorded(cache: Path) -> int:
    return sum(len(path.read_text().splitlines()) - 1 for path in cache.glob("transfers/*"))


def test_a_killed_upload_continues(data: Data, object_store: ObjectStore, large: Path, cache: Path) -> None:
    """The second process sends only the parts that are missing, and the object is not visible before."""
    bucket = data.uri("").split("/")[2]
    with CuttingProxy(object_store.endpoint, limit=LARGE * 6 // 10) as proxy:
        process = begin(data, proxy, cache, "put", str(large), "large.bin")
        eventually(lambda: proxy.is_stalled and recorded(cache) >= 1)
        process.send_signal(signal.SIGKILL)
        process.wait()
        parts = recorded(cache)
        assert data.ls() == []
        proxy.resume()
        data_of(proxy.endpoint, bucket, "test-secret").put(large, "large.bin")
        assert proxy.passed < LARGE - (parts - 2) * 8 * 2**20  # headers, and a record that the signal cut
    assert Objects(data._platform.storage).read(data.uri("large.bin"))[0] == large.read_bytes()
    assert list(cache.glob("transfers/*")) == []


def test_a_killed_download_continues(
    data: Data, object_store: ObjectStore, large: Path, cache: Path, tmp_path: Path
) -> None:
    """The second process fetches only the parts that are missing; until then no file has the name."""
    data.put(large, "large.bin")
    target = tmp_path / "back" / "large.bin"
    bucket = data.uri("").split("/")[2]
    with CuttingProxy(object_store.endpoint, limit=LARGE * 6 // 10, upward=False) as proxy:
        process = begin(data, proxy, cache, "get", "large.bin", str(target))
        eventually(lambda: proxy.is_stalled and recorded(cache) >= 1)
        process.send_signal(signal.SIGKILL)
        process.wait()
        parts = recorded(cache)
        assert not target.exists()
        proxy.resume()
        data_of(proxy.endpoint, bucket, "test-secret").get("large.bin", target)
        assert proxy.passed < LARGE - (parts - 2) * 8 * 2**20
    assert target.read_bytes() == large.read_bytes()
    assert [path.name for path in target.parent.iterdir()] == ["large.bin"]


def test_an_upload_that_the_storage_has_forgotten_begins_again(data: Data, large: Path, cache: Path) -> None:
    """A record of parts is of no use when the storage has deleted them."""
    with CuttingProxy(data._platform.storage._client.meta.endpoint_url, limit=LARGE * 6 // 10) as proxy:
        process = begin(data, proxy, cache, "put", str(large), "large.bin")
        eventually(lambda: proxy.is_stalled and recorded(cache) >= 1)
        process.kill()
        process.wait()
    [journal] = cache.glob("transfers/*")
    id = journal.read_text().split('"')[3]
    Objects(data._platform.storage).abandon(data.uri("large.bin"), id)
    counts: list[int] = []
    data.put(large, "large.bin", lambda done, total: counts.append(done))
    assert counts[-1] == LARGE - 5
    assert Objects(data._platform.storage).read(data.uri("large.bin"))[0] == large.read_bytes()


def test_cut_connections_are_made_again(data: Data, object_store: ObjectStore, large: Path, tmp_path: Path) -> None:
    """A network that cuts a connection now and then costs time alone."""
    bucket = data.uri("").split("/")[2]
    for upward in (True, False):
        with CuttingProxy(object_store.endpoint, limit=30 * 2**20, upward=upward, cut=True) as proxy:
            shaky = data_of(proxy.endpoint, bucket, "test-secret")
            shaky.put(large, f"{upward}.bin")
            shaky.get(f"{upward}.bin", tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == large.read_bytes()


def test_a_replaced_object_is_not_mixed(data: Data, object_store: ObjectStore, large: Path, tmp_path: Path) -> None:
    """A download whose object is replaced meanwhile ends with that reason, and without a file."""
    data.put(large, "large.bin")
    bucket = data.uri("").split("/")[2]
    errors: list[StorageError] = []
    with CuttingProxy(object_store.endpoint, limit=LARGE // 2, upward=False) as proxy:

        def get() -> None:
            try:
                data_of(proxy.endpoint, bucket, "test-secret").get("large.bin", tmp_path / "back" / "x")
            except StorageError as error:
                errors.append(error)

        thread = threading.Thread(target=get)
        thread.start()
        eventually(lambda: proxy.is_stalled)
        large.write_bytes(random.Random(2).randbytes(LARGE - 5))
        data.put(large, "large.bin")
        proxy.resume()
        thread.join()
    assert [error.reason for error in errors] == ["ObjectChanged"]
    assert list((tmp_path / "back").iterdir()) == []


def test_a_file_that_grows_meanwhile_is_refused(data: Data, object_store: ObjectStore, large: Path) -> None:
    """No object is made of two versions of a file."""
    bucket = data.uri("").split("/")[2]
    errors: list[UltramarineError] = []
    with CuttingProxy(object_store.endpoint, limit=LARGE // 2) as proxy:

        def put() -> None:
            try:
                data_of(proxy.endpoint, bucket, "test-secret").put(large)
            except UltramarineError as error:
                errors.append(error)

        thread = threading.Thread(target=put)
        thread.start()
        eventually(lambda: proxy.is_stalled)
        with large.open("r+b") as stream:
            stream.write(b"other")
        proxy.resume()
        thread.join()
    assert "changed during its upload" in errors[0].message
    assert data.ls() == []


def test_changed_content_in_the_storage_is_noticed(data: Data, bucket_folder: Path, tmp_path: Path) -> None:
    """A file whose content is not what its writer stated does not get its name."""
    (tmp_path / "a.csv").write_text("1,2,3")
    data.put(tmp_path / "a.csv")
    stored = bucket_folder / "team-a" / "a.csv"
    with stored.open("r+b") as stream:
        stream.write(b"9")
    with pytest.raises(StorageError, match="fetch it again, or upload it again") as caught:
        data.get("a.csv", tmp_path / "back.csv")
    assert caught.value.reason == "DigestMismatch"
    assert not (tmp_path / "back.csv").exists()


# Full disks


@pytest.mark.parametrize("files", [1, 10])
def test_a_full_disk_here_leaves_nothing_half(
    data: Data, large: Path, small_disk: Path, tmp_path: Path, files: int
) -> None:
    """The message names the folder, and no part of the file that did not fit stays."""
    folder = tmp_path / "set"
    folder.mkdir()
    content = large.read_bytes()
    for number in range(files):
        (folder / str(number)).write_bytes(content[: 50_000_000 // files])
    data.put(folder, "set")
    with pytest.raises(FileInvalid, match="choose another folder"):
        data.get("set", small_disk / "set")
    rest = below(small_disk)
    assert all(rest[name] == (folder / name.removeprefix("set/")).read_bytes() for name in rest)


def test_a_full_disk_there_is_named(small_disk: Path, large: Path, object_store: ObjectStore) -> None:
    """The message says whose disk it is, at once, and what to do."""
    with serving_store(small_disk / "buckets-of-small") as store:
        (small_disk / "buckets-of-small" / "small").mkdir()
        data = data_of(store.endpoint, "small", store.secret_key)
        with pytest.raises(StorageError, match=r"disk of the object storage at .* is full"):
            data.put(large)


# Mistakes


def test_nearest_names_are_offered(data: Data, tmp_path: Path) -> None:
    """An absent name, there or here, is answered with those that are like it."""
    (tmp_path / "churn.csv").write_text("1")
    data.put(tmp_path / "churn.csv", "sets/churn.csv")
    for verb in (data.get, data.rm, data.ls):
        with pytest.raises(RemoteNotFound, match=r"Did you mean sets/churn\.csv\?"):
            verb("sets/chrun.csv")
    with pytest.raises(RemoteNotFound, match=r"`ultramarine data ls` lists sets/\."):
        data.get("sets/zzz")
    with pytest.raises(FileInvalid, match=r"does not exist on this machine\. Did you mean .*churn\.csv\?"):
        data.put(tmp_path / "chrun.csv")


def test_a_folder_is_listed_and_deleted_as_one(data: Data, tmp_path: Path) -> None:
    """Folders are listed as such, and deleted only on purpose; their neighbours stay."""
    for name in ("a/b/1.csv", "a/2.csv", "ab.csv"):
        (tmp_path / "1").write_text(name)
        data.put(tmp_path / "1", name)
    assert [data.name(entry.uri) for entry in data.ls("a")] == ["a/b/", "a/2.csv"]
    assert [(data.name(entry.uri), entry.bytes) for entry in data.ls("ab.csv")] == [("ab.csv", 6)]
    with pytest.raises(FileInvalid, match="is a folder with 2 objects"):
        data.rm("a")
    with pytest.raises(FileInvalid, match="all results of the namespace"):
        data.rm("/", recursive=True)
    assert data.rm("a", recursive=True) == 2
    assert [data.name(entry.uri) for entry in data.ls()] == ["ab.csv"]
    assert data.rm("ab.csv") == 1


def test_a_storage_that_is_away_and_wrong_keys_are_told_apart(
    object_store: ObjectStore, bucket: str, tmp_path: Path
) -> None:
    """Each has a sentence of its own; the way's own problem comes first."""
    (tmp_path / "a").write_text("1")
    with pytest.raises(StorageError, match="check both keys"):
        data_of(object_store.endpoint, bucket, "wrong").put(tmp_path / "a")
    away = data_of(f"http://127.0.0.1:{free_port()}", bucket, "test-secret")
    with pytest.raises(StorageError, match="the storage does not answer"):
        away.put(tmp_path / "a")
    away._platform.problem = UltramarineError("pod gateway is gone")  # type: ignore[misc]
    with pytest.raises(UltramarineError, match="pod gateway is gone"):
        away.put(tmp_path / "a")


def test_a_name_below_a_file_is_refused(data: Data, tmp_path: Path) -> None:
    """The embedded storage keeps folders as folders; the message says so."""
    (tmp_path / "a").write_text("1")
    data.put(tmp_path / "a", "x")
    with pytest.raises(StorageError, match="a file and a folder cannot have the same name"):
        data.put(tmp_path / "a", "x/y")


@pytest.mark.parametrize("gibibytes", [0.01, 10, 5000])
def test_a_file_of_any_size_has_parts_that_s3_takes(gibibytes: float) -> None:
    """At most 10,000 parts of at least 5 MiB, which are sent four at once."""
    size = int(gibibytes * 2**30)

    assert Parts(size).size >= 5 * 2**20
    assert -(-size // Parts(size).size) <= 10_000
