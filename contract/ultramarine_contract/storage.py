"""Transfers to and from S3-compatible object storage, with checked content; the only client of boto3."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple
from urllib.parse import urlsplit

import boto3
from boto3.s3.transfer import TransferConfig, create_transfer_manager
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from s3transfer.futures import TransferFuture
from s3transfer.subscribers import BaseSubscriber

from .common import ENV_STORAGE_CA, MANIFEST_NAME, RESULT_NAME, ArtifactManifest, FileEntry, OutputRecord
from .errors import StorageError
from .formats import FORMAT_BY_SUFFIX
from .locations import Location, files_below, parse_uri, unsafe
from .storage_errors import explained

if TYPE_CHECKING:
    from botocore.awsrequest import AWSRequest
    from mypy_boto3_s3.client import S3Client

READ_LIMIT = 16 * 1024 * 1024  # bytes; result records and manifests are far smaller


_CONNECT_SECONDS, _READ_SECONDS, _ATTEMPTS = 5, 30, 3  # so an absent address is reported within 20 s
_TRANSFER = TransferConfig(multipart_threshold=32 * 1024 * 1024, multipart_chunksize=16 * 1024 * 1024)


class ArtifactInfo(NamedTuple):
    """Facts about an artifact without its content; `digest` is empty for a single object."""

    digest: str
    bytes: int
    format: str


class Size(NamedTuple):
    """Number of objects, and their bytes together."""

    files: int
    bytes: int


class Keys(NamedTuple):
    """Credentials of the storage, as a Secret holds them."""

    AWS_ACCESS_KEY_ID: str
    AWS_SECRET_ACCESS_KEY: str


class Part(NamedTuple):
    """Answer to a read: its size in bytes, the Content-Range if it is not the whole object, and its content."""

    size: int
    range: str
    chunks: Iterator[bytes]


Progress = Callable[[int, int], None]  # gets the bytes so far and in all, from many threads


class Storage:
    """Client of one object storage; an empty `endpoint` is AWS. Without `keys` the credentials are boto3's.

    For https the storage needs a certificate of the system's authorities, or of those in the file `authority`. Its
    default is the file that ENV_STORAGE_CA or boto3's own variable names. Connections go to
    the host and port `way`, if given: for https an HTTP proxy, for http a forward. Requests still name the endpoint.

    A request has `attempts`, and each attempt waits `read_seconds` for data. A storage that hangs raises StorageError
    after about the product of both.
    """

    def __init__(
        self,
        endpoint: str,
        region: str = "",
        read_seconds: float = _READ_SECONDS,
        attempts: int = _ATTEMPTS,
        *,
        keys: Keys | None = None,
        authority: str = "",
        way: str = "",
    ) -> None:
        self.name = endpoint or "AWS S3"
        named = [authority, *(os.environ.get(name, "") for name in (ENV_STORAGE_CA, "AWS_CA_BUNDLE"))]
        authorities = [path for path in named if path]
        for path in authorities:
            if not Path(path).exists():
                remedy = "create the ConfigMap or Secret that the chart's value ca names, in this namespace"
                raise StorageError(
                    f"file of authorities {path} not found; {remedy}", "AuthorityNotFound", transient=True
                )
        config = Config(
            connect_timeout=_CONNECT_SECONDS,
            read_timeout=read_seconds,
            retries={"mode": "standard", "total_max_attempts": attempts},
            max_pool_connections=16,
            proxies={"https": f"http://{way}"} if way else None,
            # Custom endpoints rarely have a DNS name for every bucket.
            s3={"addressing_style": "path"} if endpoint else {},
        )
        # A session of its own: boto3's shared one keeps the credentials that it found first.
        access_key, secret_key = keys or (None, None)
        session = boto3.Session(access_key, secret_key, region_name=region or None)
        forwarded = bool(way) and endpoint.startswith("http:")
        url = f"http://{way}" if forwarded else endpoint or None
        try:
            self._client: S3Client = session.client(
                "s3", endpoint_url=url, config=config, verify=next(iter(authorities), None)
            )
        except (ValueError, BotoCoreError) as error:
            raise StorageError(f"storage endpoint {endpoint!r} is unusable: {error}", "InvalidEndpoint") from error
        if forwarded:
            # Not a proxy: some storages refuse the absolute URIs that a proxy gets.
            self._client.meta.events.register("before-sign.s3", partial(_name_host, urlsplit(endpoint).netloc))

    def _explained(self, uri: str) -> AbstractContextManager[None]:
        return explained(self.name, uri)

    def objects(self, uri: str) -> dict[str, tuple[str, int]]:
        """Return the objects of a `download` of the same `uri`: by the path below, each object's URI and size."""
        location = parse_uri(uri)
        with self._explained(uri):
            objects = self._objects(uri)
        start = len(location.key) if location.is_prefix else location.key.rfind("/") + 1
        return {key[start:]: (f"s3://{location.bucket}/{key}", size) for key, size in objects.items()}

    def open(self, uri: str, range: str = "") -> Part:
        """Start to read an object, or the part of it that an HTTP Range header names."""
        location = parse_uri(uri)
        with self._explained(uri):
            get = partial(self._client.get_object, Bucket=location.bucket, Key=location.key)
            answer = get(Range=range) if range else get()
        return Part(answer["ContentLength"], answer.get("ContentRange", ""), self._chunks(uri, answer["Body"]))

    def _chunks(self, uri: str, body: Any) -> Iterator[bytes]:
        with self._explained(uri):
            yield from body.iter_chunks(1 << 20)

    def size(self, uri: str) -> Size:
        """Return the size of a `download` of the same `uri`."""
        with self._explained(uri):
            objects = self._objects(uri)
        return Size(len(objects), sum(objects.values()))

    def mark(self, uri: str) -> str:
        """Return a text that changes with the objects of a `download` of the same `uri`: an ETag, or a hash of them."""
        location = parse_uri(uri)
        with self._explained(uri):
            if not location.is_prefix:
                return str(self._client.head_object(Bucket=location.bucket, Key=location.key)["ETag"])
            lister = self._client.get_paginator("list_objects_v2")
            digest = hashlib.sha256()
            for page in lister.paginate(Bucket=location.bucket, Prefix=location.key):
                for entry in page.get("Contents", []):
                    digest.update(f"{entry['Key']} {entry['ETag']} {entry['Size']}\n".encode())
        return digest.hexdigest()

    def folders(self, uri: str) -> list[str]:
        """Return the URIs of the folders directly below `uri`, which ends in a slash; each ends in one too."""
        location = parse_uri(uri)
        with self._explained(uri):
            lister = self._client.get_paginator("list_objects_v2")
            pages = lister.paginate(Bucket=location.bucket, Prefix=location.key, Delimiter="/")
            prefixes = [entry["Prefix"] for page in pages for entry in page.get("CommonPrefixes", [])]
        return [f"s3://{location.bucket}/{key}" for key in prefixes]

    def names(self, uri: str) -> list[str]:
        """Return the names of the objects directly below `uri`, which ends in a slash; none if it does not exist."""
        location = parse_uri(uri)
        with self._explained(uri):
            lister = self._client.get_paginator("list_objects_v2")
            pages = lister.paginate(Bucket=location.bucket, Prefix=location.key, Delimiter="/")
            keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        return [name for key in keys if (name := key[len(location.key) :])]

    def download(self, uri: str, into: Path, progress: Progress | None = None) -> list[FileEntry]:
        """Fetch an object, or all objects under a prefix that ends in a slash, to paths below `into`."""
        location = parse_uri(uri)
        with self._explained(uri):
            objects = self._objects(uri)
            start = len(location.key) if location.is_prefix else location.key.rfind("/") + 1
            paths = [key[start:] for key in objects]
            for path in paths:
                if problem := unsafe(path):
                    raise StorageError(f"{uri} holds a key {path!r} that cannot be a file: {problem}", "InvalidKey")
            pairs = zip(objects, (into / path for path in paths), strict=True)
            self._get(location.bucket, pairs, sum(objects.values()), progress)
            return [file_entry(path, into / path) for path in paths]

    def upload_folder(
        self, folder: Path, prefix_uri: str, format: str = "", files: Mapping[str, Path] | None = None
    ) -> OutputRecord:
        """Store `folder` under a name made of its content, manifest last; files that exist are not sent again.

        `files`, by their paths, are the ones to store, if not all of them.
        """
        with self._explained(prefix_uri):
            files = dict(files_below(folder)) if files is None else files
            if not files:
                raise StorageError(f"{folder} is empty; the command has to write its result there", "OutputEmpty")
            if MANIFEST_NAME in files:
                problem = "this name is reserved for the list of files; choose another"
                raise StorageError(f"{folder / MANIFEST_NAME} cannot be stored: {problem}", "OutputInvalid")
            manifest = ArtifactManifest(tuple(file_entry(path, file) for path, file in files.items()), format)
            uri = f"{prefix_uri.rstrip('/')}/{manifest.digest.removeprefix('sha256:')[:16]}/"
            location = parse_uri(uri)
            record = OutputRecord(uri, manifest.digest, manifest.bytes, format)
            there = self._list(location)
            manifest_key = location.key + MANIFEST_NAME
            if manifest_key in there and self.read(uri + MANIFEST_NAME) == manifest.to_json():
                return record
            with create_transfer_manager(self._client, _TRANSFER) as transfers:
                futures = []
                for entry in manifest.files:
                    key, metadata = location.key + entry.path, {"sha256": entry.sha256}
                    same = there.get(key) == entry.bytes
                    if same and self._client.head_object(Bucket=location.bucket, Key=key)["Metadata"] == metadata:
                        continue
                    extra = {"ChecksumAlgorithm": "SHA256", "Metadata": metadata}
                    futures.append(transfers.upload(str(files[entry.path]), location.bucket, key, extra))
                for future in futures:
                    future.result()
            self.write(uri + MANIFEST_NAME, manifest.to_json())
            return record

    def delete_artifact(self, uri: str) -> None:
        """Delete the folder `uri`, its records first: the rest is never taken for a whole artifact."""
        location = parse_uri(uri)
        if not location.is_prefix or not location.key:
            raise StorageError(f"{uri} is not the folder of an artifact. Name one to delete it.", "InvalidURI")
        with self._explained(uri):
            # One request for each: not every storage knows the one for many.
            for key in sorted(self._list(location), key=deletion_rank):
                self._client.delete_object(Bucket=location.bucket, Key=key)

    def fetch_artifact(self, uri: str, digest: str, into: Path, progress: Progress | None = None) -> ArtifactManifest:
        """Fetch an artifact, checked file by file. Raises StorageError DigestMismatch for any other content."""
        location = parse_uri(uri)
        if not location.is_prefix:
            [entry] = self.download(uri, into, progress)
            _expect(uri, digest, "sha256:" + entry.sha256)
            return ArtifactManifest((entry,), FORMAT_BY_SUFFIX.get(Path(entry.path).suffix, ""))
        manifest = self.manifest(uri)
        _expect(uri + MANIFEST_NAME, digest, manifest.digest)
        for entry in manifest.files:
            if problem := unsafe(entry.path):
                raise StorageError(f"{uri} lists a file {entry.path!r}: {problem}", "InvalidKey")
        with self._explained(uri):
            pairs = [(location.key + entry.path, into / entry.path) for entry in manifest.files]
            self._get(location.bucket, pairs, manifest.bytes, progress)
            for entry in manifest.files:
                _expect(uri + entry.path, "sha256:" + entry.sha256, "sha256:" + _sha256(into / entry.path))
            (into / MANIFEST_NAME).write_bytes(manifest.to_json())
        return manifest

    def artifact_digest(self, uri: str) -> ArtifactInfo:
        """Return facts about the artifact at `uri` from its manifest or, for a single object, from its header alone."""
        location = parse_uri(uri)
        if location.is_prefix:
            manifest = self.manifest(uri)
            return ArtifactInfo(manifest.digest, manifest.bytes, manifest.format)
        with self._explained(uri):
            return ArtifactInfo("", self._head(location), FORMAT_BY_SUFFIX.get(Path(location.key).suffix, ""))

    def object_digest(self, uri: str, limit: int) -> str:
        """Return the SHA-256 of an object, as an artifact's digest is written; nothing if it is larger than `limit`.

        The object is read in chunks. Its size is that of this very read, since it may have been replaced before.
        """
        digest, size = hashlib.sha256(), 0
        for chunk in self.open(uri).chunks:
            size += len(chunk)
            if size > limit:
                return ""
            digest.update(chunk)
        return f"sha256:{digest.hexdigest()}"

    def content_digest(self, uri: str) -> str:
        """Return a digest of all that is at `uri`: an artifact's own, or one over paths, sizes and ETags."""
        location = parse_uri(uri)
        if location.is_prefix and self.exists(uri + MANIFEST_NAME):
            return self.manifest(uri).digest
        with self._explained(uri):
            self._objects(uri)  # which explains what is missing
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=location.bucket, Prefix=location.key)
            entries = [
                [entry["Key"].removeprefix(location.key), entry["Size"], entry["ETag"]]
                for page in pages
                for entry in page.get("Contents", [])
                if location.is_prefix or entry["Key"] == location.key
            ]
        return f"sha256:{hashlib.sha256(json.dumps(sorted(entries)).encode()).hexdigest()}"

    def read(self, uri: str, limit: int = READ_LIMIT) -> bytes:
        """Return a small object's content, at most `limit` bytes."""
        location = parse_uri(uri)
        with self._explained(uri):
            data = self._client.get_object(Bucket=location.bucket, Key=location.key)["Body"].read(limit + 1)
        if len(data) > limit:
            raise StorageError(f"{uri} is larger than {limit} bytes; it cannot be what is expected", "TooLarge")
        return data

    def write(self, uri: str, data: bytes | BinaryIO) -> None:
        """Store `data`, perhaps of an open file, as one object; it appears whole or not at all."""
        location = parse_uri(uri)
        with self._explained(uri):
            self._client.put_object(Bucket=location.bucket, Key=location.key, Body=data, ChecksumAlgorithm="SHA256")

    def create(self, uri: str, data: bytes) -> bool:
        """Store `data` as one object; False if the object exists: of many concurrent attempts one succeeds."""
        location = parse_uri(uri)
        put = partial(self._client.put_object, Bucket=location.bucket, Key=location.key, Body=data)
        with self._explained(uri):
            try:
                put(ChecksumAlgorithm="SHA256", IfNoneMatch="*")
            except ClientError as error:
                if error.response["ResponseMetadata"]["HTTPStatusCode"] == 412:
                    return False
                raise
        return True

    def exists(self, uri: str) -> bool:
        """Return True if the object exists."""
        location = parse_uri(uri)
        with self._explained(uri):
            try:
                self._client.head_object(Bucket=location.bucket, Key=location.key)
            except ClientError as error:
                if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                    return False
                raise
        return True

    def upload(self, file: Path, uri: str, progress: Progress | None = None) -> None:
        """Store a file as one object, large ones in parallel parts."""
        location = parse_uri(uri)
        subscribers = [_Counter(file.stat().st_size, progress)] if progress else None
        with self._explained(uri), create_transfer_manager(self._client, _TRANSFER) as transfers:
            extra = {"ChecksumAlgorithm": "SHA256"}
            transfers.upload(str(file), location.bucket, location.key, extra, subscribers).result()

    def delete(self, uri: str) -> None:
        """Delete one object, if it exists."""
        location = parse_uri(uri)
        with self._explained(uri):
            self._client.delete_object(Bucket=location.bucket, Key=location.key)

    def manifest(self, uri: str) -> ArtifactManifest:
        """Return the list of files of the artifact at `uri`, which ends in a slash."""
        try:
            return ArtifactManifest.from_json(self.read(uri + MANIFEST_NAME))
        except ValueError as error:
            raise StorageError(f"{uri}{MANIFEST_NAME} is unusable: {error}", "ManifestInvalid") from error

    def _list(self, location: Location) -> dict[str, int]:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=location.bucket, Prefix=location.key)
        return {entry["Key"]: entry["Size"] for page in pages for entry in page.get("Contents", [])}

    def _objects(self, uri: str) -> dict[str, int]:
        """Return key and size of the objects of `uri`, without the empty objects that stand for folders."""
        location = parse_uri(uri)
        if not location.is_prefix:
            return {location.key: self._head(location)}
        objects = {key: size for key, size in self._list(location).items() if not key.endswith("/")}
        if not objects:
            raise StorageError(f"nothing is stored under {uri}; check the path or upload the data", "InputNotFound")
        return objects

    def _head(self, location: Location) -> int:
        """Return the size of an object. A missing one has no error message, so a listing finds the reason."""
        try:
            return self._client.head_object(Bucket=location.bucket, Key=location.key)["ContentLength"]
        except ClientError as error:
            below = self._client.list_objects_v2(Bucket=location.bucket, Prefix=location.key + "/", MaxKeys=1)
            if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
                raise
            problem = "is a folder; end it with a slash" if below.get("KeyCount") else "does not exist; check the path"
            raise StorageError(f"{location} {problem}", "InputNotFound") from error

    def _get(self, bucket: str, pairs: Iterable[tuple[str, Path]], total: int, progress: Progress | None) -> None:
        subscribers = [_Counter(total, progress)] if progress else None
        with create_transfer_manager(self._client, _TRANSFER) as transfers:
            futures = []
            for key, path in pairs:
                path.parent.mkdir(parents=True, exist_ok=True)
                future = transfers.download(bucket, key, str(path), subscribers=subscribers)
                futures.append((f"s3://{bucket}/{key}", future))
            for uri, future in futures:
                with self._explained(uri):  # names the file of a folder
                    future.result()


def _name_host(host: str, request: AWSRequest, **_: Any) -> None:
    request.headers["Host"] = host


class _Counter(BaseSubscriber):
    """Sum of the bytes of all transfers."""

    def __init__(self, total: int, progress: Progress) -> None:
        self._total, self._progress = total, progress
        self._done = 0
        self._lock = threading.Lock()

    def on_progress(self, future: TransferFuture, bytes_transferred: int, **kwargs: Any) -> None:
        with self._lock:  # so that two threads do not report their counts in the wrong order
            self._done += bytes_transferred
            self._progress(self._done, self._total)


def deletion_rank(key: str) -> tuple[bool, bool]:
    """Return the place in the order of deletion: the verdict on a compiled model, lists of files, files."""
    name = key.rpartition("/")[2]
    return name != RESULT_NAME, name != MANIFEST_NAME


def file_entry(path: str, file: Path) -> FileEntry:
    """Return the entry of a file in a manifest."""
    return FileEntry(path, file.stat().st_size, _sha256(file))


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _expect(uri: str, expected: str, actual: str) -> None:
    if expected != actual:
        remedy = "the stored content is not what was registered; register it again or restore it"
        raise StorageError(f"{uri} has digest {actual}, expected {expected}; {remedy}", "DigestMismatch")
