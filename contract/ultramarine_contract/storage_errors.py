"""Refusals of the object storage, in words that say what to check; boto3's errors are known here alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    FlexibleChecksumError,
    NoCredentialsError,
    PartialCredentialsError,
)
from s3transfer.exceptions import RetriesExceededError

from .common import MANIFEST_NAME
from .errors import StorageError
from .locations import parse_uri

# versitygw answers XAdminUserNotFound, with status 404, for an unknown access key.
_BAD_CREDENTIALS = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "XAdminUserNotFound"}
_WRONG_REGION = {"PermanentRedirect", "AuthorizationHeaderMalformed", "301", "IllegalLocationConstraintException"}
# versitygw keeps objects as files, so an object's name cannot be that of a folder.
_NAME_TAKEN = {"ExistingObjectIsDirectory", "ObjectParentIsFile", "DirectoryObjectContainsData"}
_BUSY = {
    "SlowDown",
    "ServiceUnavailable",
    "InternalError",
    "RequestTimeout",
    "Throttling",
    "ConditionalRequestConflict",  # another client creates the same object at this moment
}


@contextmanager
def explained(name: str, uri: str) -> Iterator[None]:
    """Turn errors of boto3 inside into a StorageError with a remedy; `name` is that of the storage."""
    try:
        yield
    except ClientError as error:
        raise _refusal(error, name, uri) from error
    except (NoCredentialsError, PartialCredentialsError) as error:
        remedy = "give the pod AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY from the storage Secret"
        raise StorageError(f"no credentials for {uri}; {remedy}", "CredentialsMissing") from error
    except FlexibleChecksumError as error:
        remedy = "it was damaged on its way or in the storage; fetch it again, or upload it again"
        message = f"{uri} does not have the checksum that the storage has for it; {remedy}"
        raise StorageError(message, "DigestMismatch") from error
    except (BotoCoreError, RetriesExceededError) as error:
        remedy = "check that it runs, that its address is right and that the network leads there from here"
        # boto3's message names the object's address: two objects of one absent storage would seem to have two reasons.
        message = f"the object storage at {name} does not answer for {uri} ({_kind(error)}); {remedy}"
        raise StorageError(message, "Unreachable", transient=True) from error
    except OSError as error:
        raise StorageError(f"the local disk failed for {uri}: {error}", "LocalDiskError") from error


def _refusal(error: ClientError, name: str, uri: str) -> StorageError:
    code = error.response["Error"].get("Code", "")
    status = error.response["ResponseMetadata"]["HTTPStatusCode"]
    if code == "NoSuchBucket":
        bucket = parse_uri(uri).bucket
        return StorageError(f"bucket {bucket} of {uri} does not exist at {name}; create it", "BucketNotFound")
    if code == "RequestTimeTooSkewed":
        message = f"the storage refused {uri}, for this node's clock differs from its own ({code}); set the clock"
        return StorageError(message, "ClockWrong", transient=True)
    if status == 507 or code == "QuotaExceeded":
        remedy = "delete what is not needed, or ask your administrator for a larger disk"
        message = f"the disk of the object storage at {name} is full, so {uri} was not stored; {remedy}"
        return StorageError(message, "StorageFull", transient=True)
    if code in _BAD_CREDENTIALS or status in (401, 403):
        remedy = "check both keys in the storage Secret and what they may do with the bucket"
        return StorageError(f"the storage refused the credentials for {uri} ({code}); {remedy}", "AccessDenied")
    if code in _WRONG_REGION:
        return StorageError(f"{uri} is in another region ({code}); set the storage region", "WrongRegion")
    if code in ("NoSuchUpload", "InvalidPart"):  # the latter if only its parts are gone
        return StorageError(f"the upload of {uri} does not exist any more; begin it again", "UploadNotFound")
    if status == 412:
        return StorageError(f"{uri} was replaced while it was read; read it again", "ObjectChanged")
    if code in _NAME_TAKEN:
        problem = "a file and a folder cannot have the same name"
        return StorageError(f"{uri} cannot be stored: {problem}; choose another name", "NameTaken")
    if status == 404:
        remedy = "check the path or upload it"
        if uri.endswith("/" + MANIFEST_NAME):
            remedy = "its folder was not uploaded whole, or was made by hand: then give the URI of its one file"
        return StorageError(f"{uri} does not exist; {remedy}", "ObjectNotFound")
    if status == 416:
        return StorageError(f"{uri} is shorter than what is asked of it", "InvalidRange")
    text = error.response["Error"].get("Message", "")
    busy = code in _BUSY or status == 429 or status >= 500
    message = f"the object storage answered {code} for {uri}: {text}"
    return StorageError(message, "Unavailable" if busy else "Refused", transient=busy)


def _kind(error: BotoCoreError | RetriesExceededError) -> str:
    cause = error.last_exception if isinstance(error, RetriesExceededError) else error
    return type(cause).__name__
