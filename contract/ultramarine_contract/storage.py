"""Files to and from S3-compatible object storage, with content checked on both ways; the only importer of boto3."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import boto3
from boto3.s3.transfer import TransferConfig, create_transfer_manager
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError
from s3transfer.exceptions import RetriesExceededError
from s3transfer.futures import TransferFuture
from s3transfer.subscribers import BaseSubscriber

from .common import ENV_STORAGE_CA, MANIFEST_NAME, RESULT_NAME, ArtifactManifest, FileEntry, OutputRecord
from .errors import StorageError
from .formats import FORMAT_BY_SUFFIX

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

READ_LIMIT = 16 * 1024 * 1024  # bytes; result records and manifests are far smaller

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")
_NOT_TEXT = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")  # control characters, and bytes that are not UTF-8
_PERCENT_ENCODED = re.compile(r"%[0-9A-Fa-f]{2}")

_CONNECT_SECONDS, _READ_SECONDS, _ATTEMPTS = 5, 30, 3  # so an absent address is told within 20 s
_TRANSFER = TransferConfig(multipart_threshold=32 * 1024 * 1024, multipart_chunksize=16 * 1024 * 1024)

# versitygw by itself says XAdminUserNotFound, with status 404, for an access key that it does not know.
_BAD_CREDENTIALS = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "XAdminUserNotFound"}
_WRONG_REGION = {"PermanentRedirect", "AuthorizationHeaderMalformed", "301", "IllegalLocationConstraintException"}
_BUSY = {
    "SlowDown",
    "ServiceUnavailable",
    "InternalError",
    "RequestTimeout",
    "Throttling",
    "ConditionalRequestConflict",  # somebody else creates the same object at this moment
}


class Location(NamedTuple):
    """A bucket and a key in it; a key that is empty or ends in a slash means everything below it."""

    bucket: str
    key: str

    @property
    def is_prefix(self) -> bool:
        return not self.key or self.key.endswith("/")

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


class ArtifactInfo(NamedTuple):
    """What is known of an artifact without its content; `digest` is empty for a single object."""

    digest: str
    bytes: int
    format: str


class Size(NamedTuple):
    """How many objects, and how many bytes they have together."""

    files: int
    bytes: int


class Part(NamedTuple):
    """What is being read: its size in bytes, the Content-Range where it is not the whole, and its content."""

    size: int
    range: str
    chunks: Iterator[bytes]


Progress = Callable[[int, int], None]  # told the bytes that have come, and the bytes in all; called from many threads


def parse_uri(uri: str) -> Location:
    """Take an s3:// URI apart. Raises StorageError InvalidURI, with the reason, for anything but a plain one."""
    scheme, _, rest = uri.partition("://")
    bucket, slash, key = rest.partition("/")
    if scheme != "s3" or not rest:
        problem = "it must begin with s3:// and name a bucket"
    elif not _BUCKET.fullmatch(bucket) or ".." in bucket:
        problem = f"{bucket!r} is not a bucket name"
    elif not slash:
        problem = "it names a bucket only; end it with a slash to mean everything in the bucket"
    elif "\\" in key or _PERCENT_ENCODED.search(key):
        problem = "backslashes and percent-encoded characters are not allowed; write the key as it is"
    else:
        problem = _unsafe(key.removesuffix("/")) if key else ""
    if problem:
        raise StorageError(f"{uri!r} is not a usable URI: {problem}", "InvalidURI")
    return Location(bucket, key)


def _unsafe(path: str) -> str:
    """Say why `path` must not become a path below a folder, or return nothing."""
    if _NOT_TEXT.search(path) or len(path) > 1024:
        return "control characters, broken UTF-8 and more than 1024 characters are not allowed"
    if any(segment in ("", ".", "..") for segment in path.split("/")):
        return "empty, '.' and '..' segments are not allowed"
    return ""


class Storage:
    """One object storage; an empty `endpoint` is AWS. Credentials are found where boto3 looks for them.

    By https it needs a certificate of the system's authorities, or of those in the file that ENV_STORAGE_CA, or else
    boto3's own variable, names.

    Each request has `attempts`, and each of these waits `read_seconds` for a word: a storage that hangs is told after
    about their product.
    """

    def __init__(
        self, endpoint: str, region: str = "", read_seconds: float = _READ_SECONDS, attempts: int = _ATTEMPTS
    ) -> None:
        self.name = endpoint or "AWS S3"
        authorities = [os.environ[name] for name in (ENV_STORAGE_CA, "AWS_CA_BUNDLE") if os.environ.get(name)]
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
            # Custom endpoints rarely have a DNS name for every bucket.
            s3={"addressing_style": "path"} if endpoint else {},
        )
        # A session of its own: boto3's shared one keeps the credentials that it found first.
        session = boto3.Session(region_name=region or None)
        try:
            self._client: S3Client = session.client(
                "s3", endpoint_url=endpoint or None, config=config, verify=next(iter(authorities), None)
            )
        except (ValueError, BotoCoreError) as error:
            raise StorageError(f"storage endpoint {endpoint!r} is unusable: {error}", "InvalidEndpoint") from error

    def objects(self, uri: str) -> dict[str, tuple[str, int]]:
        """Return what `download` of the same `uri` would bring: by the path below, the object's URI and its size."""
        location = parse_uri(uri)
        with self._telling(uri):
            found = self._objects(uri)
        start = len(location.key) if location.is_prefix else location.key.rfind("/") + 1
        return {key[start:]: (f"s3://{location.bucket}/{key}", size) for key, size in found.items()}

    def open(self, uri: str, range: str = "") -> Part:
        """Begin to read an object, or the part of it that an HTTP Range header names."""
        location = parse_uri(uri)
        with self._telling(uri):
            get = partial(self._client.get_object, Bucket=location.bucket, Key=location.key)
            answer = get(Range=range) if range else get()
        return Part(answer["ContentLength"], answer.get("ContentRange", ""), self._chunks(uri, answer["Body"]))

    def _chunks(self, uri: str, body: Any) -> Iterator[bytes]:
        with self._telling(uri):
            yield from body.iter_chunks(1 << 20)

    def size(self, uri: str) -> Size:
        """Say how much `download` of the same `uri` would bring."""
        with self._telling(uri):
            objects = self._objects(uri)
        return Size(len(objects), sum(objects.values()))

    def folders(self, uri: str) -> list[str]:
        """Return the URIs of the folders directly below `uri`, which ends in a slash; each ends in one too."""
        location = parse_uri(uri)
        with self._telling(uri):
            lister = self._client.get_paginator("list_objects_v2")
            pages = lister.paginate(Bucket=location.bucket, Prefix=location.key, Delimiter="/")
            found = [entry["Prefix"] for page in pages for entry in page.get("CommonPrefixes", [])]
        return [f"s3://{location.bucket}/{key}" for key in found]

    def download(self, uri: str, into: Path, progress: Progress | None = None) -> list[FileEntry]:
        """Fetch an object, or all objects under a prefix that ends in a slash, to paths below `into`."""
        location = parse_uri(uri)
        with self._telling(uri):
            objects = self._objects(uri)
            start = len(location.key) if location.is_prefix else location.key.rfind("/") + 1
            paths = [key[start:] for key in objects]
            for path in paths:
                if problem := _unsafe(path):
                    raise StorageError(f"{uri} holds a key {path!r} that cannot be a file: {problem}", "InvalidKey")
            pairs = zip(objects, (into / path for path in paths), strict=True)
            self._get(location.bucket, pairs, sum(objects.values()), progress)
            return [_entry(path, into / path) for path in paths]

    def upload_folder(
        self, folder: Path, prefix_uri: str, format: str = "", files: Mapping[str, Path] | None = None
    ) -> OutputRecord:
        """Store `folder` under a name made of its content, manifest last; what is there already is not sent again.

        `files`, by their paths, are the ones that are meant, if not all are.
        """
        with self._telling(prefix_uri):
            files = dict(files_below(folder)) if files is None else files
            if not files:
                raise StorageError(f"{folder} is empty; the command has to write its result there", "OutputEmpty")
            manifest = ArtifactManifest(tuple(_entry(path, file) for path, file in files.items()), format)
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
        """Delete all that is stored in the folder `uri`, what tells of it first: the rest is never taken for whole."""
        location = parse_uri(uri)
        if not location.is_prefix or not location.key:
            raise StorageError(f"{uri} is no artifact's folder, so it is not deleted; name one", "InvalidURI")
        with self._telling(uri):
            # One request for each: not every storage knows the one for many.
            for key in sorted(self._list(location), key=deletion_rank):
                self._client.delete_object(Bucket=location.bucket, Key=key)

    def fetch_artifact(self, uri: str, digest: str, into: Path, progress: Progress | None = None) -> ArtifactManifest:
        """Fetch what `digest` names, checked file by file. Raises StorageError DigestMismatch for any other content."""
        location = parse_uri(uri)
        if not location.is_prefix:
            [entry] = self.download(uri, into, progress)
            _expect(uri, digest, "sha256:" + entry.sha256)
            return ArtifactManifest((entry,), FORMAT_BY_SUFFIX.get(Path(entry.path).suffix, ""))
        manifest = self._manifest(uri)
        _expect(uri + MANIFEST_NAME, digest, manifest.digest)
        for entry in manifest.files:
            if problem := _unsafe(entry.path):
                raise StorageError(f"{uri} lists a file {entry.path!r}: {problem}", "InvalidKey")
        with self._telling(uri):
            pairs = [(location.key + entry.path, into / entry.path) for entry in manifest.files]
            self._get(location.bucket, pairs, manifest.bytes, progress)
            for entry in manifest.files:
                _expect(uri + entry.path, "sha256:" + entry.sha256, "sha256:" + _sha256(into / entry.path))
            (into / MANIFEST_NAME).write_bytes(manifest.to_json())
        return manifest

    def artifact_digest(self, uri: str) -> ArtifactInfo:
        """Say what is stored at `uri` from the manifest or, for a single object, from its header alone."""
        location = parse_uri(uri)
        if location.is_prefix:
            manifest = self._manifest(uri)
            return ArtifactInfo(manifest.digest, manifest.bytes, manifest.format)
        with self._telling(uri):
            return ArtifactInfo("", self._head(location), FORMAT_BY_SUFFIX.get(Path(location.key).suffix, ""))

    def object_digest(self, uri: str, limit: int) -> str:
        """Return the SHA-256 of an object, as an artifact's digest is written; nothing if it is larger than `limit`.

        It is read, and not kept in memory. Its size is that of this very read, for it may have been exchanged before.
        """
        digest, size = hashlib.sha256(), 0
        for chunk in self.open(uri).chunks:
            size += len(chunk)
            if size > limit:
                return ""
            digest.update(chunk)
        return f"sha256:{digest.hexdigest()}"

    def read(self, uri: str, limit: int = READ_LIMIT) -> bytes:
        """Return a small object's content, at most `limit` bytes."""
        location = parse_uri(uri)
        with self._telling(uri):
            data = self._client.get_object(Bucket=location.bucket, Key=location.key)["Body"].read(limit + 1)
        if len(data) > limit:
            raise StorageError(f"{uri} is larger than {limit} bytes; it cannot be what is expected", "TooLarge")
        return data

    def write(self, uri: str, data: bytes | BinaryIO) -> None:
        """Store `data`, maybe of an open file, as one object; it appears whole or not at all."""
        location = parse_uri(uri)
        with self._telling(uri):
            self._client.put_object(Bucket=location.bucket, Key=location.key, Body=data, ChecksumAlgorithm="SHA256")

    def create(self, uri: str, data: bytes) -> bool:
        """Store `data` as one object, or say False where one is there already: of many who try at once one succeeds."""
        location = parse_uri(uri)
        put = partial(self._client.put_object, Bucket=location.bucket, Key=location.key, Body=data)
        with self._telling(uri):
            try:
                put(ChecksumAlgorithm="SHA256", IfNoneMatch="*")
            except ClientError as error:
                if error.response["ResponseMetadata"]["HTTPStatusCode"] == 412:
                    return False
                raise
        return True

    def delete(self, uri: str) -> None:
        """Delete one object; that it is not there is as well."""
        location = parse_uri(uri)
        with self._telling(uri):
            self._client.delete_object(Bucket=location.bucket, Key=location.key)

    def _manifest(self, uri: str) -> ArtifactManifest:
        try:
            return ArtifactManifest.from_json(self.read(uri + MANIFEST_NAME))
        except ValueError as error:
            raise StorageError(f"{uri}{MANIFEST_NAME} is unusable: {error}", "ManifestInvalid") from error

    def _list(self, location: Location) -> dict[str, int]:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=location.bucket, Prefix=location.key)
        return {entry["Key"]: entry["Size"] for page in pages for entry in page.get("Contents", [])}

    def _objects(self, uri: str) -> dict[str, int]:
        """Return key and size of what `uri` means, without the empty objects that stand for folders."""
        location = parse_uri(uri)
        if not location.is_prefix:
            return {location.key: self._head(location)}
        objects = {key: size for key, size in self._list(location).items() if not key.endswith("/")}
        if not objects:
            raise StorageError(f"nothing is stored under {uri}; check the path or upload the data", "InputNotFound")
        return objects

    def _head(self, location: Location) -> int:
        """Return the size of an object. A header says nothing but 404, so then a listing finds out why."""
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
                futures.append(transfers.download(bucket, key, str(path), subscribers=subscribers))
            for future in futures:
                future.result()

    @contextmanager
    def _telling(self, uri: str) -> Iterator[None]:
        """Turn whatever boto3 raises inside into a StorageError that says what to check."""
        try:
            yield
        except ClientError as error:
            raise self._refusal(error, uri) from error
        except (NoCredentialsError, PartialCredentialsError) as error:
            remedy = "give the pod AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY from the storage Secret"
            raise StorageError(f"no credentials for {uri}; {remedy}", "CredentialsMissing") from error
        except (BotoCoreError, RetriesExceededError) as error:
            remedy = "check that it runs, that its address is right and that the network lets the pod reach it"
            # Its own words name an address, which for two objects of a storage that is away would be two reasons.
            message = f"the object storage at {self.name} does not answer for {uri} ({_kind(error)}); {remedy}"
            raise StorageError(message, "Unreachable", transient=True) from error
        except OSError as error:
            raise StorageError(f"the local disk failed for {uri}: {error}", "LocalDiskError") from error

    def _refusal(self, error: ClientError, uri: str) -> StorageError:
        code = error.response["Error"].get("Code", "")
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        if code == "NoSuchBucket":
            bucket = parse_uri(uri).bucket
            return StorageError(f"bucket {bucket} of {uri} does not exist at {self.name}; create it", "BucketNotFound")
        if code == "RequestTimeTooSkewed":
            message = f"the storage refused {uri}, for this node's clock differs from its own ({code}); set the clock"
            return StorageError(message, "ClockWrong", transient=True)
        if code in _BAD_CREDENTIALS or status in (401, 403):
            remedy = "check both keys in the storage Secret and what they may do with the bucket"
            return StorageError(f"the storage refused the credentials for {uri} ({code}); {remedy}", "AccessDenied")
        if code in _WRONG_REGION:
            return StorageError(f"{uri} is in another region ({code}); set the storage region", "WrongRegion")
        if status == 404:
            remedy = "check the path or upload it"
            if uri.endswith("/" + MANIFEST_NAME):
                remedy = "its folder was not uploaded whole, or was made by hand: then give the URI of its one file"
            return StorageError(f"{uri} does not exist; {remedy}", "ObjectNotFound")
        if status == 416:
            return StorageError(f"{uri} is shorter than what is asked of it", "InvalidRange")
        said = error.response["Error"].get("Message", "")
        busy = code in _BUSY or status == 429 or status >= 500
        message = f"the object storage answered {code} for {uri}: {said}"
        return StorageError(message, "Unavailable" if busy else "Refused", transient=busy)


class _Counter(BaseSubscriber):
    """Adds up what all transfers together have brought."""

    def __init__(self, total: int, progress: Progress) -> None:
        self._total, self._progress = total, progress
        self._done = 0
        self._lock = threading.Lock()

    def on_progress(self, future: TransferFuture, bytes_transferred: int, **kwargs: Any) -> None:
        with self._lock:  # so that two threads do not tell their counts in the wrong order
            self._done += bytes_transferred
            self._progress(self._done, self._total)


def files_below(folder: Path, leave_out: Callable[[str], bool] = lambda name: False) -> Iterator[tuple[str, Path]]:
    """Yield relative path and file for all below `folder` but the names to leave out.

    Raises StorageError for what is no file or leads outside, and FileNotFoundError for what goes away meanwhile.
    """

    def walk(directory: Path, above: frozenset[Path]) -> Iterator[tuple[str, Path]]:
        for file in sorted(directory.iterdir()):
            if leave_out(file.name):
                continue
            path = file.relative_to(folder).as_posix()
            target = Path(os.path.realpath(file))  # which, other than Path.resolve, bears a link to itself
            problem = _unsafe(path)
            if not target.is_relative_to(folder.resolve()) or target in above:
                problem = "it is a link that leads out of the folder or in a circle; copy what it means"
            elif not target.is_dir() and not target.is_file():
                file.lstat()
                problem = "it is neither file nor folder; remove it"
            elif path == MANIFEST_NAME:
                problem = "this name is kept for our own list of files; choose another"
            if problem:
                raise StorageError(f"{file} cannot be stored: {problem}", "OutputInvalid")
            if target.is_dir():
                yield from walk(file, above | {target})
            else:
                yield path, file

    return walk(folder, frozenset({folder.resolve()}))


def deletion_rank(key: str) -> tuple[bool, bool]:
    """The order of deletion: the verdict on a compiled model, lists of files, and the files."""
    name = key.rpartition("/")[2]
    return name != RESULT_NAME, name != MANIFEST_NAME


def _kind(error: BotoCoreError | RetriesExceededError) -> str:
    cause = error.last_exception if isinstance(error, RetriesExceededError) else error
    return type(cause).__name__


def _entry(path: str, file: Path) -> FileEntry:
    return FileEntry(path, file.stat().st_size, _sha256(file))


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _expect(uri: str, expected: str, found: str) -> None:
    if expected != found:
        remedy = "the stored content is not what was registered; register it again or restore it"
        raise StorageError(f"{uri} has digest {found}, expected {expected}; {remedy}", "DigestMismatch")
