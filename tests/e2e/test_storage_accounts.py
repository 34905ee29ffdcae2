"""The embedded storage's accounts: what the keys of one namespace open, and what stays closed to them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError
from conftest import NAMESPACE, Platform
from manifests import training_job

BUCKET = "ultramarine"
EVERYTHING = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": f"namespace-{NAMESPACE}",
                "Action": "s3:*",
                "Resource": ["arn:aws:s3:::ultramarine", "arn:aws:s3:::ultramarine/*"],
            }
        ],
    }
)
OLD = f"{NAMESPACE}/tests/old.csv"
MINE, FOREIGN, SHARED = f"{NAMESPACE}/tests/mine.csv", "another-team/data.csv", "shared/tests/data.csv"


@pytest.fixture(scope="module")
def url(platform: Platform) -> Iterator[str]:
    """Yield the storage's URL, with an object of this namespace, one of another namespace, and a shared one."""
    with platform.target.bucket(NAMESPACE) as root:
        for key in (MINE, FOREIGN, SHARED):
            root.put_object(Bucket=BUCKET, Key=key, Body=b"x\n1\n")
    with platform.target.reach(NAMESPACE, "ultramarine-storage", 7070) as found:
        yield found


def client(url: str, access: str, secret: str) -> Any:
    """An S3 client with these keys."""
    return boto3.client(
        "s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id=access, aws_secret_access_key=secret
    )


@pytest.fixture(scope="module")
def pod(platform: Platform, url: str) -> Any:
    """Return a client with the keys that a pod of the namespace gets."""
    keys = platform.secret("ultramarine-storage")
    return client(url, keys["AWS_ACCESS_KEY_ID"], keys["AWS_SECRET_ACCESS_KEY"])


@pytest.fixture(scope="module")
def operator(platform: Platform, url: str) -> Any:
    """Return a client with the operator's keys."""
    return client(url, "operator", platform.secret("ultramarine-storage-accounts")["operator"])


def refused(ask: Callable[[], Any]) -> bool:
    """True if the storage denies the request."""
    try:
        ask()
    except ClientError as error:
        return error.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    return False


def test_a_namespace_has_its_own_objects_and_reads_the_shared_ones(pod):
    """Its pods read, write, delete and list below the namespace's name, and read and list shared/."""
    pod.put_object(Bucket=BUCKET, Key=OLD, Body=b"x\n1\n")
    pod.delete_object(Bucket=BUCKET, Key=OLD)
    assert "Contents" not in pod.list_objects_v2(Bucket=BUCKET, Prefix=OLD)
    pod.put_object(Bucket=BUCKET, Key=MINE, Body=b"x\n2\n")
    assert pod.get_object(Bucket=BUCKET, Key=MINE)["Body"].read() == b"x\n2\n"
    assert pod.get_object(Bucket=BUCKET, Key=SHARED)["Body"].read() == b"x\n1\n"
    for prefix, key in ((f"{NAMESPACE}/tests/", MINE), ("shared/tests/", SHARED)):
        assert key in [e["Key"] for e in pod.list_objects_v2(Bucket=BUCKET, Prefix=prefix)["Contents"]]


@pytest.mark.attack("training/namespace-keys")
@pytest.mark.parametrize(
    "ask",
    [
        lambda s3: s3.get_object(Bucket=BUCKET, Key=FOREIGN),
        lambda s3: s3.head_object(Bucket=BUCKET, Key=FOREIGN),
        lambda s3: s3.put_object(Bucket=BUCKET, Key=FOREIGN, Body=b"y"),
        lambda s3: s3.put_object(Bucket=BUCKET, Key=SHARED, Body=b"y"),
        lambda s3: s3.put_object(Bucket=BUCKET, Key=f"{NAMESPACE}-too/x", Body=b"y"),
        lambda s3: s3.delete_object(Bucket=BUCKET, Key=FOREIGN),
        lambda s3: s3.delete_object(Bucket=BUCKET, Key=SHARED),
        lambda s3: s3.delete_object(Bucket=BUCKET, Key=f"{NAMESPACE}-too/x"),
        lambda s3: s3.copy_object(Bucket=BUCKET, Key=MINE, CopySource=f"{BUCKET}/{FOREIGN}"),
        lambda s3: s3.copy_object(Bucket=BUCKET, Key=FOREIGN, CopySource=f"{BUCKET}/{MINE}"),
        lambda s3: s3.create_multipart_upload(Bucket=BUCKET, Key=FOREIGN),
        lambda s3: s3.upload_part_copy(
            Bucket=BUCKET,
            Key=MINE,
            CopySource=f"{BUCKET}/{FOREIGN}",
            PartNumber=1,
            UploadId=s3.create_multipart_upload(Bucket=BUCKET, Key=MINE)["UploadId"],
        ),
        lambda s3: s3.list_objects_v2(Bucket=BUCKET),
        lambda s3: s3.list_objects_v2(Bucket=BUCKET, Prefix="another-team/"),
        lambda s3: s3.list_objects_v2(Bucket=BUCKET, Prefix=NAMESPACE[:-1]),
        lambda s3: s3.get_bucket_policy(Bucket=BUCKET),
        lambda s3: s3.put_bucket_policy(Bucket=BUCKET, Policy=EVERYTHING),
        lambda s3: s3.delete_bucket_policy(Bucket=BUCKET),
        lambda s3: s3.put_bucket_acl(Bucket=BUCKET, ACL="public-read-write"),
        lambda s3: s3.delete_bucket(Bucket=BUCKET),
        lambda s3: s3.create_bucket(Bucket="another-bucket"),
    ],
)
def test_what_is_another_namespaces_is_closed(pod, ask):
    """The keys of one namespace open nothing of another's, neither to read nor to write, nor the bucket itself."""
    assert refused(lambda: ask(pod))


def test_dots_in_a_key_lead_nowhere(pod):
    """A key that looks like a way up is not taken for one."""
    with pytest.raises(ClientError) as caught:
        pod.get_object(Bucket=BUCKET, Key=f"{NAMESPACE}/../{FOREIGN}")
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] in (400, 403, 404)


def test_nothing_of_it_has_changed(platform, pod, url):
    """After all those tries the other namespace's object is what it was."""
    with platform.target.bucket(NAMESPACE) as root:
        for key in (FOREIGN, SHARED):
            assert root.get_object(Bucket=BUCKET, Key=key)["Body"].read() == b"x\n1\n"


@pytest.mark.attack("training/namespace-keys")
def test_the_operator_reads_and_writes_nothing(operator):
    """The operator's own account sees all results, and cannot change one."""
    for key in (MINE, FOREIGN):
        operator.get_object(Bucket=BUCKET, Key=key)
        assert refused(lambda key=key: operator.put_object(Bucket=BUCKET, Key=key, Body=b"y"))
        assert refused(lambda key=key: operator.delete_object(Bucket=BUCKET, Key=key))


def test_without_keys_nothing_is_open(url):
    """Without keys every request is refused, even for shared objects."""
    nobody = boto3.client("s3", endpoint_url=url, region_name="us-east-1", config=Config(signature_version=UNSIGNED))
    assert refused(lambda: nobody.get_object(Bucket=BUCKET, Key=SHARED))
    assert refused(lambda: nobody.list_objects_v2(Bucket=BUCKET, Prefix="shared/"))


@pytest.mark.attack("training/namespace-keys")
def test_a_job_that_asks_for_another_namespaces_data_is_told(platform, url):
    """It fails without a retry, and says which field asked for what was refused."""
    inputs = {"data": {"uri": f"s3://{BUCKET}/{FOREIGN}"}}
    platform.delete("tj", "curious")
    platform.apply(training_job("curious", inputs=inputs, backoffLimit=3))
    status = platform.ended("curious")

    assert (status["state"], status["attempts"]) == ("Failed", 1)
    assert status["failure"]["reason"] == "AccessDenied"
    assert (
        f"spec.inputs.data.uri: the storage refused the credentials for s3://{BUCKET}/{FOREIGN}"
        in (status["failure"]["message"])
    )
