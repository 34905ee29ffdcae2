"""Artifacts: uploads that are named by content and can be resumed, and content that is checked when it comes back."""

from __future__ import annotations

import hashlib
import os
import socket
from pathlib import Path

import pytest
from ultramarine_contract.common import ArtifactManifest
from ultramarine_contract.errors import StorageError
from ultramarine_contract.locations import files_below
from ultramarine_contract.storage import READ_LIMIT, Storage, deletion_rank


def folder_with(base: Path, files: dict[str, bytes]) -> Path:
    """Make a folder below `base` that holds `files`."""
    folder = base / "folder"
    folder.mkdir(exist_ok=True)
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder


def stored_files(root: Path) -> dict[str, int]:
    """Say which files the S3 server holds in a bucket, with the time of their last change."""
    return {p.relative_to(root).as_posix(): p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()}


# Upload


def test_an_upload_is_named_by_its_content(storage: Storage, bucket: str, tmp_path: Path) -> None:
    """The same folder always has the same URI and digest, and another folder has another."""
    folder = folder_with(tmp_path, {"model.skops": b"model", "notes/card.md": b"card"})

    first = storage.upload_folder(folder, f"s3://{bucket}/out/", "sklearn")
    again = storage.upload_folder(folder, f"s3://{bucket}/out", "sklearn")
    (folder / "model.skops").write_bytes(b"MODEL")
    other = storage.upload_folder(folder, f"s3://{bucket}/out/", "sklearn")

    assert first == again
    assert first.uri == f"s3://{bucket}/out/{first.digest[7:23]}/"
    assert first.bytes == 9
    assert other.digest != first.digest
    assert other.uri != first.uri


def test_a_whole_upload_is_not_sent_again(storage: Storage, bucket: str, tmp_path: Path, bucket_folder: Path) -> None:
    """A second upload of the same folder changes nothing that is stored."""
    folder = folder_with(tmp_path, {"a": b"1", "b/c": b"2"})
    storage.upload_folder(folder, f"s3://{bucket}/out/")
    before = stored_files(bucket_folder)

    storage.upload_folder(folder, f"s3://{bucket}/out/")

    assert stored_files(bucket_folder) == before


def test_a_half_done_upload_is_resumed(storage: Storage, bucket: str, tmp_path: Path, bucket_folder: Path) -> None:
    """Complete files are kept, missing or different ones are sent, and the manifest comes last."""
    folder = folder_with(tmp_path, {"kept": b"kept", "lost": b"lost", "spoilt": b"right"})
    record = storage.upload_folder(folder, f"s3://{bucket}/out/")
    inside = bucket_folder / record.uri.removeprefix(f"s3://{bucket}/")
    (inside / "manifest.json").unlink()
    (inside / "lost").unlink()
    storage.write(record.uri + "spoilt", b"wrong")
    before = stored_files(inside)

    again = storage.upload_folder(folder, f"s3://{bucket}/out/")

    after = stored_files(inside)
    assert again == record
    assert after["kept"] == before["kept"]
    assert (inside / "lost").read_bytes() == b"lost"
    assert (inside / "spoilt").read_bytes() == b"right"
    assert after["manifest.json"] >= max(after.values())


def test_large_files_go_in_parts_and_come_back_whole(storage: Storage, bucket: str, tmp_path: Path) -> None:
    """A file above the multipart threshold keeps its digest on both ways."""
    folder = folder_with(tmp_path, {"big.bin": os.urandom(1024 * 1024) * 40})

    record = storage.upload_folder(folder, f"s3://{bucket}/out/")
    manifest = storage.fetch_artifact(record.uri, record.digest, tmp_path / "back")

    assert manifest.bytes == record.bytes == 40 * 1024 * 1024
    assert (tmp_path / "back/big.bin").read_bytes() == (folder / "big.bin").read_bytes()


def test_an_empty_folder_is_an_empty_output(storage: Storage, bucket: str, tmp_path: Path) -> None:
    """Folders without files count as nothing."""
    (tmp_path / "out/deep").mkdir(parents=True)

    with pytest.raises(StorageError) as caught:
        storage.upload_folder(tmp_path / "out", f"s3://{bucket}/out/")

    assert caught.value.reason == "OutputEmpty"


@pytest.mark.attack(
    "training/links",
    asset="files outside an output",
    threat="a link in an output leads to another file",
    control="links that leave the folder, circles and sockets are refused",
)
def test_links_that_leave_the_folder_are_refused(storage: Storage, bucket: str, tmp_path: Path) -> None:
    """Nothing from outside the output gets into it by a link."""
    folder = folder_with(tmp_path, {"a": b"1"})
    (folder / "secret").symlink_to("/etc/hostname")

    with pytest.raises(StorageError, match="leads out of the folder") as caught:
        storage.upload_folder(folder, f"s3://{bucket}/out/")

    assert caught.value.reason == "OutputInvalid"


def test_links_in_a_circle_are_refused(storage: Storage, bucket: str, tmp_path: Path) -> None:
    """A folder that contains itself does not keep the upload going for ever."""
    folder = folder_with(tmp_path, {"a/1": b"1", "b/2": b"2"})
    (folder / "a/x").symlink_to("../b")
    (folder / "b/y").symlink_to("../a")

    with pytest.raises(StorageError, match="in a circle"):
        storage.upload_folder(folder, f"s3://{bucket}/out/")


def test_links_inside_the_folder_are_followed(storage: Storage, bucket: str, tmp_path: Path) -> None:
    """`latest -> checkpoint-3` is stored as the files that it shows."""
    folder = folder_with(tmp_path, {"checkpoint-3/weights": b"w"})
    (folder / "latest").symlink_to("checkpoint-3")

    record = storage.upload_folder(folder, f"s3://{bucket}/out/")
    manifest = storage.fetch_artifact(record.uri, record.digest, tmp_path / "back")

    assert [entry.path for entry in manifest.files] == ["checkpoint-3/weights", "latest/weights"]


@pytest.mark.attack("training/links")
def test_sockets_are_refused(storage: Storage, bucket: str, tmp_path: Path) -> None:
    """A path that is neither file nor folder cannot be stored, and the message names it."""
    folder = folder_with(tmp_path, {"a": b"1"})
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(folder / "s"))

        with pytest.raises(StorageError, match="neither file nor folder"):
            storage.upload_folder(folder, f"s3://{bucket}/out/")


def test_a_link_to_itself_is_refused(storage: Storage, bucket: str, tmp_path: Path) -> None:
    """A link that leads nowhere is named like any other thing that is no file."""
    folder = folder_with(tmp_path, {"a": b"1"})
    (folder / "loop").symlink_to("loop")

    with pytest.raises(StorageError, match="neither file nor folder") as caught:
        storage.upload_folder(folder, f"s3://{bucket}/out/")

    assert caught.value.reason == "OutputInvalid"


def test_only_the_files_that_are_meant_are_stored(storage: Storage, bucket: str, tmp_path: Path) -> None:
    """A file beside them, or one that comes during the upload, is not part of the artifact."""
    folder = folder_with(tmp_path, {"weights": b"w", "weights.tmp": b"half", ".cache/x": b"x"})
    files = dict(files_below(folder, lambda path: Path(path).name.startswith(".") or path.endswith(".tmp")))

    record = storage.upload_folder(folder, f"s3://{bucket}/out/", files=files)

    assert files == {"weights": folder / "weights"}
    manifest = storage.fetch_artifact(record.uri, record.digest, tmp_path / "back")
    assert [entry.path for entry in manifest.files] == ["weights"]


def test_what_goes_away_while_it_is_listed_is_not_called_invalid(tmp_path: Path) -> None:
    """A file that is gone is told from one that cannot be stored."""
    folder = folder_with(tmp_path, {"a": b"1", "b": b"2"})
    listing = files_below(folder)
    next(listing)
    (folder / "b").unlink()

    with pytest.raises(FileNotFoundError):
        next(listing)


def test_a_users_own_manifest_is_not_clobbered(storage: Storage, bucket: str, tmp_path: Path) -> None:
    """manifest.json at the top is our name; deeper down it is the user's."""
    folder = folder_with(tmp_path, {"deep/manifest.json": b"{}"})
    storage.upload_folder(folder, f"s3://{bucket}/out/")
    (folder / "manifest.json").write_bytes(b"{}")

    with pytest.raises(StorageError, match="choose another") as caught:
        storage.upload_folder(folder, f"s3://{bucket}/out/")

    assert caught.value.reason == "OutputInvalid"


# Artifacts


def test_an_artifact_comes_back_with_its_manifest(storage: Storage, bucket: str, tmp_path: Path) -> None:
    """An uploaded artifact is fetched, and its manifest lies beside it for the next check."""
    folder = folder_with(tmp_path, {"model.onnx": b"onnx", "data/extra": b"x"})
    record = storage.upload_folder(folder, f"s3://{bucket}/out/", "onnx")

    storage.fetch_artifact(record.uri, record.digest, tmp_path / "back")

    assert (tmp_path / "back/data/extra").read_bytes() == b"x"
    manifest = ArtifactManifest.from_json((tmp_path / "back/manifest.json").read_bytes())
    assert (manifest.digest, manifest.format) == (record.digest, "onnx")
    assert storage.artifact_digest(record.uri) == (record.digest, record.bytes, "onnx")


def test_progress_of_an_artifact_is_told(storage: Storage, bucket: str, tmp_path: Path) -> None:
    """The bytes in all are those of the manifest."""
    folder = folder_with(tmp_path, {"model.onnx": b"onnx", "data/extra": b"x"})
    record = storage.upload_folder(folder, f"s3://{bucket}/out/", "onnx")
    told: list[tuple[int, int]] = []

    storage.fetch_artifact(record.uri, record.digest, tmp_path / "back", lambda *counts: told.append(counts))

    assert told[-1] == (5, 5)


def test_a_deleted_artifact_is_gone_and_its_neighbours_are_not(
    storage: Storage, bucket: str, tmp_path: Path, bucket_folder: Path
) -> None:
    """All below the folder goes, nothing else; to delete what is not there is no fault."""
    kept = storage.upload_folder(folder_with(tmp_path, {"a": b"1"}), f"s3://{bucket}/out/")
    gone = storage.upload_folder(folder_with(tmp_path, {"b/c": b"2"}), f"s3://{bucket}/out/")

    storage.delete_artifact(gone.uri)
    storage.delete_artifact(gone.uri)

    assert storage.folders(f"s3://{bucket}/out/") == [kept.uri]
    assert all(kept.uri.removeprefix(f"s3://{bucket}/") in path for path in stored_files(bucket_folder))


def test_what_tells_of_a_compiled_model_is_deleted_first() -> None:
    """A deletion that ends halfway leaves no verdict without its model, and no list without its files."""
    keys = [f"ns/compiled/p/{name}" for name in ("d/a.onnx", "d/manifest.json", "d/z", "result.json")]
    assert [key.rpartition("/")[2] for key in sorted(keys, key=deletion_rank)] == [
        *("result.json", "manifest.json", "a.onnx", "z")
    ]


@pytest.mark.parametrize("key", ["", "out"])
def test_only_a_folder_can_be_deleted(storage: Storage, bucket: str, key: str) -> None:
    """A whole bucket, or what may be the beginning of many names, is not deleted by mistake."""
    storage.write(f"s3://{bucket}/out/a", b"1")

    with pytest.raises(StorageError) as caught:
        storage.delete_artifact(f"s3://{bucket}/{key}")

    assert caught.value.reason == "InvalidURI"
    assert storage.read(f"s3://{bucket}/out/a") == b"1"


def test_folders_are_listed_without_what_is_in_them(storage: Storage, bucket: str) -> None:
    """Objects beside the folders, and folders deeper down, are not among them."""
    for key in ("out/a/1", "out/a/deep/2", "out/b/3", "out/latest.json", "other/4"):
        storage.write(f"s3://{bucket}/{key}", b"x")

    assert storage.folders(f"s3://{bucket}/out/") == [f"s3://{bucket}/out/a/", f"s3://{bucket}/out/b/"]
    assert storage.folders(f"s3://{bucket}/nothing/") == []


def test_changed_content_is_found(storage: Storage, bucket: str, tmp_path: Path) -> None:
    """A file that was exchanged in the bucket is not taken, and the message has both digests."""
    record = storage.upload_folder(folder_with(tmp_path, {"model.onnx": b"onnx"}), f"s3://{bucket}/out/", "onnx")
    storage.write(record.uri + "model.onnx", b"evil")

    with pytest.raises(StorageError) as caught:
        storage.fetch_artifact(record.uri, record.digest, tmp_path / "back")

    assert caught.value.reason == "DigestMismatch"
    assert hashlib.sha256(b"onnx").hexdigest() in caught.value.message
    assert hashlib.sha256(b"evil").hexdigest() in caught.value.message


@pytest.mark.attack(
    "model/exchanged-content",
    asset="truth of the answers",
    threat="content exchanged in the storage or on disk",
    control="SHA-256 of each file, checked when fetched and when loaded",
)
def test_an_exchanged_manifest_is_found(storage: Storage, bucket: str, tmp_path: Path) -> None:
    """The digest that was registered decides, not what the bucket says today."""
    record = storage.upload_folder(folder_with(tmp_path, {"model.onnx": b"onnx"}), f"s3://{bucket}/out/", "onnx")
    storage.write(record.uri + "manifest.json", ArtifactManifest((), "onnx").to_json())

    with pytest.raises(StorageError, match=record.digest) as caught:
        storage.fetch_artifact(record.uri, record.digest, tmp_path / "back")

    assert caught.value.reason == "DigestMismatch"


@pytest.mark.attack("model/archive-paths")
def test_a_manifest_cannot_write_outside(storage: Storage, bucket: str, tmp_path: Path) -> None:
    """A listed path with `..` is refused although its digest is right."""
    text = b'{"files":[{"bytes":1,"path":"../escape","sha256":"00"}],"format":""}'
    manifest = ArtifactManifest.from_json(text)
    storage.write(f"s3://{bucket}/bad/manifest.json", manifest.to_json())

    with pytest.raises(StorageError) as caught:
        storage.fetch_artifact(f"s3://{bucket}/bad/", manifest.digest, tmp_path / "back")

    assert caught.value.reason == "InvalidKey"
    assert not (tmp_path / "escape").exists()


def test_a_single_object_is_an_artifact_too(storage: Storage, bucket: str, tmp_path: Path) -> None:
    """A model made by hand needs no manifest: its own SHA-256 is its digest."""
    storage.write(f"s3://{bucket}/hand/model.onnx", b"onnx")
    uri, digest = f"s3://{bucket}/hand/model.onnx", "sha256:" + hashlib.sha256(b"onnx").hexdigest()
    assert storage.object_digest(uri, 4) == digest
    assert storage.object_digest(uri, 3) == "", "another size than was found before: it is not read"

    manifest = storage.fetch_artifact(uri, digest, tmp_path / "back")

    assert (manifest.files[0].path, manifest.format) == ("model.onnx", "onnx")
    assert storage.artifact_digest(uri) == ("", 4, "onnx")
    with pytest.raises(StorageError, match="expected sha256:00"):
        storage.fetch_artifact(uri, "sha256:00", tmp_path / "back")


def test_a_folder_without_manifest_says_what_to_do(storage: Storage, bucket: str, tmp_path: Path) -> None:
    """A folder made by hand, or not uploaded whole, is no artifact; the message knows both cases."""
    storage.write(f"s3://{bucket}/hand/model.onnx", b"onnx")

    with pytest.raises(StorageError, match="not uploaded whole, or was made by hand") as caught:
        storage.artifact_digest(f"s3://{bucket}/hand/")

    assert caught.value.reason == "ObjectNotFound"


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"files":[1]}', b'{"files":[{"path":1}]}', b"\xff"])
def test_garbage_in_place_of_a_manifest_is_said_to_be_that(storage: Storage, bucket: str, text: bytes) -> None:
    """A broken manifest is a clear error, never a traceback."""
    storage.write(f"s3://{bucket}/bad/manifest.json", text)

    with pytest.raises(StorageError) as caught:
        storage.artifact_digest(f"s3://{bucket}/bad/")

    assert caught.value.reason == "ManifestInvalid"


@pytest.mark.attack(
    "training/huge-record",
    asset="the operator's memory",
    threat="a huge result record",
    control="read up to 16 MiB, then refused",
)
def test_small_objects_are_read_and_large_ones_refused(storage: Storage, bucket: str) -> None:
    """`read` gives back what `write` stored, and does not fill the memory with what cannot be a record."""
    storage.write(f"s3://{bucket}/result.json", b"{}")
    storage.write(f"s3://{bucket}/large", bytes(READ_LIMIT + 1))

    assert storage.read(f"s3://{bucket}/result.json") == b"{}"
    with pytest.raises(StorageError) as caught:
        storage.read(f"s3://{bucket}/large")
    assert caught.value.reason == "TooLarge"
    with pytest.raises(StorageError) as caught:
        storage.read(f"s3://{bucket}/absent")
    assert caught.value.reason == "ObjectNotFound"
