"""Builds of environments: a real uv, a package index on loopback, and the archive that other pods unpack."""

from __future__ import annotations

import base64
import errno
import hashlib
import io
import json
import os
import stat
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from certificates import Authority
from ultramarine_contract import common as contract
from ultramarine_contract.environment_records import BuildRecord, BuildTask, EnvironmentArchive
from ultramarine_contract.environments import unpack
from ultramarine_contract.errors import StorageError
from ultramarine_contract.storage import Storage
from ultramarine_environment import building, storing
from ultramarine_environment.building import Places
from ultramarine_environment.failures import explained
from ultramarine_environment.native import missing_libraries, needed
from ultramarine_environment.tools import copy
from unit.packages import index, source, wheel

ALPHA = [wheel("alpha", "1.0"), wheel("alpha", "2.0")]
BETA = wheel("beta", "1.0", ("alpha<2",))


@pytest.fixture
def places(tmp_path: Path) -> Places:
    """Empty folders that stand for the mounts of a pod that builds."""
    folders = [tmp_path / name for name in ("environment", "requirements", "source")]
    for folder in folders:
        folder.mkdir()
    environment, requirements, source = folders
    return Places(environment, requirements / "requirements.txt", source, tmp_path / "log")


def build(places: Places, url: str, *requirements: str, authority: str = "", **task: Any) -> tuple[int, BuildRecord]:
    """Build an environment, and return the exit code and what the container leaves."""
    document = {"prefix": "s3://b/team-a/environments/churn/1", "requirements": requirements, **task}
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("UV_", "SSL_"))}
    variables = {**plain, "UV_DEFAULT_INDEX": url, "UV_HTTP_RETRIES": "0", contract.ENV_TASK: json.dumps(document)}
    if authority:
        variables["SSL_CERT_FILE"] = authority
    code = building.main(variables, places)
    left = places.termination_log if code else places.environment / building.RESULT
    return code, BuildRecord.from_json(left.read_text())


def test_constants_are_those_of_the_contract() -> None:
    """The builder cannot import the contract in a user's image, so it has copies."""
    names = ("ENV_TASK", "ENVIRONMENT_DIR", "SOURCE_DIR", "TERMINATION_LOG", "EXIT_DO_NOT_RETRY", "EXIT_TRY_AGAIN")
    assert [getattr(building, name) for name in names] == [getattr(contract, name) for name in names]


def test_an_environment_is_built_stored_and_unpacked_elsewhere(
    places: Places, storage: Storage, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its Python has all packages with their bytecode and the image's behind them; equal files give equal archives."""
    prefix = f"s3://{bucket}/team-a/environments/churn/1"
    with index(*ALPHA, BETA) as url:
        code, record = build(places, url, "beta", "# a comment", prefix=prefix, python="3.11")
    assert (code, record.packages, record.reason, record.message) == (0, 2, "", "")

    monkeypatch.setenv(contract.ENV_TASK, json.dumps({"prefix": prefix}))
    monkeypatch.setenv(contract.ENV_STORAGE_ENDPOINT, storage.name)
    assert storing.main("store", os.environ, places) == 0
    stored = BuildRecord.from_json(places.termination_log.read_text())
    assert BuildRecord.from_json(storage.read(f"{prefix}/result.json")) == stored
    assert "alpha==1.0 \\\n    --hash=sha256:" in storage.read(stored.lock).decode()
    assert storing.main("store", os.environ, places) == 0
    assert BuildRecord.from_json(places.termination_log.read_text()).digest == stored.digest

    folder = tmp_path / "elsewhere"
    archive = EnvironmentArchive(stored.uri, stored.digest, stored.bytes)
    assert unpack(storage, archive, folder) > 10
    program = "import alpha, beta; print(alpha.VERSION, beta.__cached__, alpha.__file__)"
    argv = [folder / "bin/python", "-c", program]
    version, compiled, file = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.split()
    assert "include-system-site-packages = true" in (folder / "pyvenv.cfg").read_text()
    assert (version, Path(file).is_relative_to(folder), Path(compiled).is_file()) == ("1.0", True, True)

    (folder / "bin/python").unlink()
    assert unpack(storage, archive, folder) == 0, "a container that starts again does no work"
    (folder / ".unpacked").unlink()
    (folder / "rest").write_text("of an interrupted start")
    assert unpack(storage, archive, folder) > 10
    assert (folder / "bin/python").is_symlink()
    assert not (folder / "rest").exists()

    assert storing.main("delete", os.environ, places) == 0
    with pytest.raises(StorageError) as refusal:
        unpack(storage, archive, tmp_path / "third")
    assert refusal.value.reason == "ObjectNotFound"


STEALING = """
import os
lock = os.environ["HOME"] + "/../requirements.lock"
os.unlink(lock)
os.symlink("/proc/self/environ", lock)
"""


def test_setup_code_of_a_package_gets_no_keys(
    places: Places, storage: Storage, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs while the lock exists already, and may replace it by a link to what the container with keys can read."""
    prefix = f"s3://{bucket}/team-a/environments/churn/1"
    with index(source("evil", "1.0", STEALING + BACKEND)) as url:
        build(places, url, "evil", prefix=prefix)
    (places.environment / building.RESULT).write_text(json.dumps({"seconds": 1}))
    assert (places.environment / building.LOCK).is_symlink()
    monkeypatch.setenv(contract.ENV_TASK, json.dumps({"prefix": prefix}))
    monkeypatch.setenv(contract.ENV_STORAGE_ENDPOINT, storage.name)
    assert storing.main("store", os.environ, places) == contract.EXIT_DO_NOT_RETRY
    record = BuildRecord.from_json(places.termination_log.read_text())
    assert (record.reason, "requirements.lock is not a file" in record.message) == ("EnvironmentInvalid", True)
    with pytest.raises(StorageError, match="nothing is stored"):
        storage.size(f"{prefix}/")


@pytest.mark.parametrize("fault", ["link", "folder", "pipe", "socket", "document", "huge", "keys"])
def test_a_result_that_foreign_code_wrote_is_not_trusted(places: Places, storage: Storage, fault: str) -> None:
    """Neither it nor its folder may be a link; nothing blocks, and nothing is stored."""
    folder, outside = places.environment, places.source
    (outside / "result.json").write_text(json.dumps({"seconds": 1}))
    result = folder / building.RESULT
    if fault == "folder":
        result.parent.symlink_to(outside)
    else:
        result.parent.mkdir()
    match fault:
        case "link":
            result.symlink_to(outside / "result.json")
        case "pipe":
            os.mkfifo(result)
        case "socket":
            os.mknod(result, stat.S_IFSOCK | 0o600)  # the path may be too long to bind to
        case "document":
            result.write_text("[")
        case "huge":
            result.write_text(json.dumps({"message": "a" * (1 << 20)}))
        case "keys":
            result.write_text(json.dumps({"seconds": "1", "uri": []}))
    with pytest.raises(StorageError) as refusal:
        storing.store(BuildTask("s3://b/team-a/environments/churn/1"), storage, folder)
    assert refusal.value.reason == "EnvironmentInvalid"


def test_an_archive_has_links_as_links_and_nothing_that_is_no_file(places: Places, tmp_path: Path) -> None:
    """A link to a folder with secrets is a link in the archive; a pipe does not block, and names are the reader's."""
    folder = places.environment
    (places.source / "secret").write_text("key")
    (folder / "lib").symlink_to(places.source)
    (folder / "secret").symlink_to(places.source / "secret")
    packed = tmp_path / "packed"
    storing.pack(folder, packed)
    with tarfile.open(fileobj=io.BytesIO(zstd(packed))) as tar:
        links = {info.name: (info.issym(), info.linkname) for info in tar}
    assert links == {
        "lib": (True, str(places.source)),
        "secret": (True, str(places.source / "secret")),
    }
    for name, make in (("pipe", os.mkfifo), (".unpacked", Path.touch), ("a\nb", Path.touch), ("c\nd", Path.mkdir)):
        path = folder / name
        make(path)
        with pytest.raises(StorageError, match="remove it") as refusal:
            storing.pack(folder, packed)
        assert refusal.value.reason == "EnvironmentInvalid"
        path.rmdir() if path.is_dir() else path.unlink()


def zstd(path: Path) -> bytes:
    """Return the content of a file that is compressed."""
    with pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), "zstd") as stream:
        return bytes(stream.read())


BACKEND = """
import sys
print("error: command 'gcc' failed: No such file or directory", file=sys.stderr)
sys.exit(1)
"""


@pytest.mark.parametrize(
    ("requirement", "reason", "words"),
    [
        ("nosuch", "NotFound", "Because nosuch was not found in the package registry"),
        ("alpha==9", "NotFound", "Because there is no version of alpha==9"),
        ("alpha==2.0\nbeta", "Unsatisfiable", "all versions of beta depend on alpha<2 and you require alpha==2.0"),
        ("gamma", "BuildFailed", "gamma==1.0 has no wheel for this Python, and its build failed: error: command 'gcc'"),
        ("alpha 1.0", "RequirementsInvalid", "alpha 1.0"),
        ("./mine", "RequirementsInvalid", "packages come from an index"),
        ("alpha\nbeta==", "RequirementsInvalid", "line 2 of the requirements"),
        ("-r other.txt", "RequirementsInvalid", "line 1 of the requirements names a file by -r; write the lines"),
        (
            "# alpha\n \n--index-url http://127.0.0.1:9",
            "RequirementsInvalid",
            "the requirements name no package; name at least one",
        ),
    ],
)
def test_a_resolvers_refusal_is_final_and_has_its_words(
    places: Places, requirement: str, reason: str, words: str
) -> None:
    """Names, versions, conflicts, compilers and lines that the user must correct end the build for good."""
    with index(*ALPHA, BETA, source("gamma", "1.0", BACKEND)) as url:
        code, record = build(places, url, *requirement.splitlines())
    assert (code, record.reason) == (contract.EXIT_DO_NOT_RETRY, reason), record.message
    assert words in record.message


def test_an_absent_index_is_tried_again(places: Places) -> None:
    """An index that does not answer now may answer the next pod of the Job."""
    code, record = build(places, "http://127.0.0.1:9/simple", "alpha")
    assert (code, record.reason) == (contract.EXIT_TRY_AGAIN, "IndexUnreachable")
    assert "Connection refused" in record.message
    own = build(places, "http://127.0.0.1:9/simple", "alpha", "--index-url http://127.0.0.1:9/other")[1]
    assert own.message.endswith("; check the index in line 2 of the requirements")


def test_credentials_open_an_index_and_are_in_no_message(places: Places) -> None:
    """A password in the index's address is used, and a wrong one is refused without being repeated."""
    secret = "Basic " + base64.b64encode(b"ada:secret").decode()
    with index(*ALPHA, authorization=secret) as url:
        assert build(places, url.replace("//", "//ada:secret@"), "alpha")[0] == 0
        code, record = build(places, url.replace("//", "//ada:wrong@"), "alpha")
    assert (code, record.reason) == (contract.EXIT_DO_NOT_RETRY, "IndexUnauthorized"), record.message
    assert "wrong" not in record.message


def test_an_index_needs_its_authority(places: Places, tmp_path: Path) -> None:
    """With the authority of its certificate packages are installed; with another one the failure names the cause."""
    folder, other = tmp_path / "index", tmp_path / "other.crt"
    Authority().issue(folder)
    other.write_text(Authority().pem)
    with index(*ALPHA, certificate=folder) as url:
        code, record = build(places, url, "alpha", authority=str(other))
        assert (code, record.reason) == (contract.EXIT_DO_NOT_RETRY, "CertificateUnknown"), record.message
        assert build(places, url, "alpha", authority=str(folder / "ca.crt"))[0] == 0


def test_an_unknown_authority_is_named(places: Places) -> None:
    """A certificate that no known authority has signed is a fault of the installation."""
    text = "error: Failed to fetch: `https://index/simple/a/`\n  cause: invalid peer certificate: UnknownIssuer\n"
    assert explained(text).reason == "CertificateUnknown"


def test_too_large_an_environment_names_its_largest_packages(places: Places) -> None:
    """Size counts unpacked files, and the author learns which packages to leave out."""
    with index(wheel("large", "1.0", ("alpha",), **{"data.bin": os.urandom(3 << 20)}), *ALPHA) as url:
        code, record = build(places, url, "large", max_bytes=2 << 20)
    assert (code, record.reason) == (contract.EXIT_DO_NOT_RETRY, "TooLarge")
    assert "more than 2 MiB; the largest packages: large 3 MiB" in record.message


def test_requirements_come_from_a_config_map_or_a_source(places: Places) -> None:
    """Files in a source may name others beside them; without a file the field to correct is named.

    A ConfigMap that does not exist may still be created.
    """
    with index(*ALPHA, BETA) as url:
        code, record = build(places, url)
        assert (code, record.reason) == (contract.EXIT_TRY_AGAIN, "RequirementsMissing")
        places.requirements.write_text("alpha<2\n")
        assert build(places, url)[1].packages == 1
        (places.source / "deep").mkdir()
        (places.source / "deep/requirements.txt").write_text("-r more.txt\n")
        (places.source / "deep/more.txt").write_text("beta\n")
        assert build(places, url, path="deep/requirements.txt")[1].packages == 2
        code, record = build(places, url, path="requirements.txt")
        assert (code, record.reason) == (contract.EXIT_DO_NOT_RETRY, "RequirementsMissing")


def test_another_python_is_refused(places: Places) -> None:
    """The message has both versions, since either may be wrong."""
    code, record = build(places, "http://127.0.0.1:9/simple", "alpha", python="3.8")
    assert (code, record.reason) == (contract.EXIT_DO_NOT_RETRY, "PythonMismatch")
    assert "not 3.8" in record.message


def test_the_tools_build_without_the_contract(places: Places, tmp_path: Path) -> None:
    """In a user's image the copied folder runs by itself, with nothing but the standard library."""
    copy(tmp_path / "tools")
    with index(*ALPHA) as url:
        program = f"""
import json, sys
sys.path[:0] = [{str(tmp_path / "tools")!r}]
from pathlib import Path
from ultramarine_environment import building
places = building.Places(Path({str(places.environment)!r}))
task = json.dumps({{"prefix": "", "requirements": ["alpha"]}})
sys.exit(building.main({{building.ENV_TASK: task, "UV_DEFAULT_INDEX": {url!r}}}, places))
"""
        subprocess.run([sys._base_executable, "-IS", "-c", program], check=True)  # type: ignore[attr-defined]
    assert list(places.environment.glob("lib/python*/site-packages/alpha"))
    argv = [sys.executable, "-I", tmp_path / "tools/ultramarine_environment"]
    assert "usage" in subprocess.run(argv, check=False, capture_output=True, text=True).stderr


def test_missing_native_libraries_are_named_with_their_package(tmp_path: Path) -> None:
    """A package that needs a library of the image is named; one that brings its own is not."""
    import numpy

    site = Path(numpy.__file__).parents[1]
    library = next((site / "numpy/_core").glob("_multiarray_umath*.so"))
    names = list(needed(library))
    assert "libc.so.6" in names
    own = next(name for name in names if "openblas" in name)
    (tmp_path / "numpy").mkdir()
    (tmp_path / "numpy/it.so").write_bytes(library.read_bytes())
    assert f"numpy needs {own}" in missing_libraries(tmp_path, [])
    assert own not in missing_libraries(tmp_path, [str(site)])


@pytest.mark.parametrize("fault", ["changed", "cut", "other", "up", "link", "device", "mark", "folder of the mark"])
def test_a_bad_archive_leaves_nothing_behind(storage: Storage, bucket: str, tmp_path: Path, fault: str) -> None:
    """Tampering is noticed before a link or `bin/python` exists, and no member is written outside the folder."""
    content, digest = archive(fault)
    if fault in ("changed", "cut"):
        half = len(content) // 2
        content = content[:half] + (b"" if fault == "cut" else bytes([content[half] ^ 1]) + content[half + 1 :])
    uri = f"s3://{bucket}/environment.tar.zst"
    storage.write(uri, content)
    folder = tmp_path / "environment"
    with pytest.raises(StorageError) as refusal:
        unpack(storage, EnvironmentArchive(uri, digest), folder)
    honest = fault not in ("changed", "cut", "other")
    assert refusal.value.reason == ("EnvironmentInvalid" if honest else "DigestMismatch"), refusal.value.message
    assert list(folder.iterdir()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["environment"]


def test_a_full_disk_is_named_and_emptied(
    storage: Storage, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pod on another node, or a later one, may have the space."""
    content, digest = archive("")
    uri = f"s3://{bucket}/environment.tar.zst"
    storage.write(uri, content)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StorageError, match="the disk is full") as refusal:
        unpack(storage, EnvironmentArchive(uri, digest), tmp_path / "environment")
    assert (refusal.value.reason, refusal.value.transient) == ("DiskFull", True)
    assert list((tmp_path / "environment").iterdir()) == []


def archive(fault: str) -> tuple[bytes, str]:
    """Return an archive, and the digest that its pod expects."""

    def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.size = kind, link, 1000 if kind == tarfile.REGTYPE else 0
        return info

    members = [member("lib/a.py"), member("bin/python", tarfile.SYMTYPE, "/usr/bin/python3")]
    members += {
        "up": [member("../evil.py")],
        "link": [member("lib/b", tarfile.SYMTYPE, ".."), member("lib/b/evil.py")],
        "device": [member("null", tarfile.CHRTYPE)],
        "mark": [member(".unpacked", tarfile.SYMTYPE, "../outside")],
        "folder of the mark": [member(".unpacked/a")],
    }.get(fault, [])
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for info in members:
            tar.addfile(info, io.BytesIO(os.urandom(info.size)))
    content = pyarrow.Codec("zstd").compress(packed.getvalue(), asbytes=True)
    digest = hashlib.sha256(b"other" if fault == "other" else content).hexdigest()
    return content, f"sha256:{digest}"
