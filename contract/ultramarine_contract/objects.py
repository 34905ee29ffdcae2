"""Single requests for objects, of which transfers that can be resumed consist."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from botocore.exceptions import ClientError

from .locations import parse_uri
from .storage import Storage

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef


class Entry(NamedTuple):
    """An object or a folder of a listing; a folder's URI ends in a slash, and it has no size."""

    uri: str
    bytes: int = 0
    modified: datetime | None = None


class Facts(NamedTuple):
    """Facts about an object; `sha256` in hex is empty if its writer did not state it."""

    bytes: int
    etag: str
    sha256: str


class SentPart(NamedTuple):
    """Receipt for a part of an upload."""

    etag: str
    checksum: str  # SHA-256 in base64


class Objects:
    """Requests to a storage for single objects. Each raises StorageError; a transient one may be sent again."""

    def __init__(self, storage: Storage) -> None:
        self._client, self._explained = storage._client, storage._explained

    def entries(self, uri: str, deep: bool = False) -> Iterator[Entry]:
        """Yield what is directly below a folder, or with `deep` all objects below it.

        An empty object that stands for a folder looks like the folder.
        """
        bucket, key = parse_uri(uri)
        lister, delimiter = self._client.get_paginator("list_objects_v2"), "" if deep else "/"
        with self._explained(uri):
            for page in lister.paginate(Bucket=bucket, Prefix=key, Delimiter=delimiter):
                for folder in page.get("CommonPrefixes", []):
                    yield Entry(f"s3://{bucket}/{folder['Prefix']}")
                for entry in page.get("Contents", []):
                    if deep or entry["Key"] != key or not key.endswith("/"):
                        yield Entry(f"s3://{bucket}/{entry['Key']}", entry["Size"], entry["LastModified"])

    def facts(self, uri: str) -> Facts | None:
        """Return facts about an object; None if it does not exist. A listing tells whether its bucket does."""
        bucket, key = parse_uri(uri)
        with self._explained(uri):
            try:
                return _facts(self._client.head_object(Bucket=bucket, Key=key))
            except ClientError as error:
                if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                    return None
                raise

    def read(self, uri: str) -> tuple[bytes, Facts]:
        """Return the content of an object that fits into memory."""
        bucket, key = parse_uri(uri)
        with self._explained(uri):
            answer = self._client.get_object(Bucket=bucket, Key=key)
            return answer["Body"].read(), _facts(answer)

    def read_part(self, uri: str, etag: str, start: int, size: int) -> bytes:
        """Return a part of an object. Raises ObjectChanged if the object is not the one of `etag` any more."""
        bucket, key = parse_uri(uri)
        with self._explained(uri):
            part = f"bytes={start}-{start + size - 1}"
            return self._client.get_object(Bucket=bucket, Key=key, Range=part, IfMatch=etag)["Body"].read()

    def write(self, uri: str, data: bytes) -> None:
        """Store an object with its SHA-256."""
        bucket, key = parse_uri(uri)
        digest = hashlib.sha256(data)
        with self._explained(uri):
            self._client.put_object(
                Bucket=bucket,
                Key=key,
                Body=data,
                ChecksumSHA256=base64.b64encode(digest.digest()).decode(),
                Metadata={"sha256": digest.hexdigest()},
            )

    def delete(self, uri: str) -> None:
        """Delete an object, if it exists."""
        bucket, key = parse_uri(uri)
        with self._explained(uri):
            self._client.delete_object(Bucket=bucket, Key=key)

    def begin(self, uri: str, sha256: str) -> str:
        """Begin an upload in parts of the object with this content; return the upload's id."""
        bucket, key = parse_uri(uri)
        with self._explained(uri):
            answer = self._client.create_multipart_upload(
                Bucket=bucket, Key=key, ChecksumAlgorithm="SHA256", Metadata={"sha256": sha256}
            )
        return answer["UploadId"]

    def write_part(self, uri: str, upload: str, number: int, data: bytes) -> SentPart:
        """Send a part, numbered from 1. Raises UploadNotFound."""
        bucket, key = parse_uri(uri)
        checksum = base64.b64encode(hashlib.sha256(data).digest()).decode()
        with self._explained(uri):
            answer = self._client.upload_part(
                Bucket=bucket, Key=key, UploadId=upload, PartNumber=number, Body=data, ChecksumSHA256=checksum
            )
        return SentPart(answer["ETag"], checksum)

    def finish(self, uri: str, upload: str, parts: Mapping[int, SentPart]) -> None:
        """Make the object of its parts. Raises UploadNotFound."""
        bucket, key = parse_uri(uri)
        listed: list[CompletedPartTypeDef] = [
            {"PartNumber": number, "ETag": part.etag, "ChecksumSHA256": part.checksum}
            for number, part in sorted(parts.items())
        ]
        with self._explained(uri):
            self._client.complete_multipart_upload(
                Bucket=bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": listed}
            )

    def abandon(self, uri: str, upload: str) -> None:
        """Delete the parts of an upload."""
        bucket, key = parse_uri(uri)
        with self._explained(uri):
            self._client.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload)


def _facts(answer: Any) -> Facts:
    return Facts(answer["ContentLength"], answer["ETag"], answer.get("Metadata", {}).get("sha256", ""))
