"""A tenant with the storage keys of one namespace, against the embedded storage: nothing of another's is reached."""

from __future__ import annotations

import http.client
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import boto3
import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from unit.conftest import ObjectStore, serving_store

BUCKET, MINE, THEIRS, SHARED = "ultramarine", "team-a/mine", "team-b/secret", "shared/data"
SECRET = b"s3cret-of-the-other-team"
UPLOAD = "8c19dd79-4dd2-4500-a0e3-3b94f852ef53"

# What some server somewhere has taken for the way up, or for the end of a text.
UP = (
    *("..", ".", "%2e%2e", "%2E%2E", ".%2e", "%252e%252e", "..%2f..", "..%5c", "%5c..", "..%00", "%00"),
    *("%c0%ae%c0%ae", "%uff0e%uff0e", "..%0d%0a", ""),
)
IDS = (
    *("..", "../../..", "..%2F..%2F..", "..%2F..%2F..%2Fteam-b", "%2e%2e%2f%2e%2e", ".", "", "/", "a%2Fb", "*"),
    *(f"{UPLOAD}%2F..", f"{UPLOAD}%00", f"{UPLOAD}%0a", UPLOAD.upper(), f"..%2F{UPLOAD}"),
)
OPEN_UPLOAD = "OPEN-UPLOAD"  # stands for the id of an upload that the attacker has begun
PARTS = ("0", "-1", "10001", "1.5", "%2B1", "1%2F..", "..%2F1", "%201", "", "1e3", "0x1")
PREFIXES = (
    *("prefix=team-a/&prefix=team-b/", "Prefix=team-b/", "prefix=team-b/", "prefix=", "prefix=*", "prefix=.sgwtmp/"),
    *("prefix=team-a/&delimiter=..", "prefix=team-a", "prefix=team-a/;prefix=team-b/"),
)
KEYS = (
    *(f"../{BUCKET}/{THEIRS}", f"team-a/../{THEIRS}", f"/{THEIRS}", "../../etc/passwd", f"team-a//../{THEIRS}"),
    *("team-a/./../team-b/secret", "team-a/..", ".sgwtmp/multipart", "team-a/&#0;"),
)
BUCKETS = ("..", ".", "%2e%2e", ".sgwtmp", ".vgwlocks", "data", "another-bucket", "ULTRAMARINE", f"{BUCKET}%2f..")
OF_BUCKETS = (
    *("acl", "accelerate", "analytics", "cors", "encryption", "intelligent-tiering", "inventory", "lifecycle"),
    *("logging", "metrics", "notification", "object-lock", "ownershipControls", "policy", "policyStatus"),
    *("publicAccessBlock", "replication", "requestPayment", "tagging", "versioning", "versions", "website", "uploads"),
)
OF_OBJECTS = (
    "acl",
    "tagging",
    "retention",
    "legal-hold",
    "restore",
    "select",
    "torrent",
    "versionId=1",
    "versionId=..",
)
HEADERS = (
    {"x-amz-acl": "public-read"},
    {"x-amz-acl": "public-read-write"},
    {"x-amz-grant-read": 'uri="http://acs.amazonaws.com/groups/global/AllUsers"'},
    {"x-amz-grant-full-control": "id=namespace-team-b"},
    {"x-amz-tagging": "a=b"},
    {"x-amz-website-redirect-location": "/team-b/secret"},
    {"x-amz-object-lock-mode": "COMPLIANCE", "x-amz-object-lock-retain-until-date": "2099-01-01T00:00:00Z"},
    {"x-amz-object-lock-legal-hold": "ON"},
    {"x-amz-bypass-governance-retention": "true"},
    {"x-amz-server-side-encryption-customer-algorithm": "AES256"},
    {"x-amz-storage-class": "GLACIER"},
    {"x-amz-write-offset-bytes": "5"},
    {"x-amz-rename-source": f"/{BUCKET}/{THEIRS}"},
)
FORM = (
    '--x\r\nContent-Disposition: form-data; name="key"\r\n\r\nteam-b/planted\r\n--x\r\n'
    'Content-Disposition: form-data; name="file"; filename="f"\r\n\r\nevil\r\n--x--\r\n'
)


class Attack(NamedTuple):
    """One request, with its path as it goes over the wire."""

    method: str
    target: str
    headers: dict[str, str] = {}  # noqa: RUF012  never changed
    body: str = ""

    def __str__(self) -> str:
        return f"{self.method} {self.target} {self.headers or ''}{self.body[:40]}"


def batch(*keys: str) -> str:
    """The body of a batch delete."""
    return f"<Delete>{''.join(f'<Object><Key>{key}</Key></Object>' for key in keys)}</Delete>"


def attacks() -> Iterator[Attack]:
    """Yield the attacks; all are refused, whatever their signature is good for."""
    for way in UP:
        for method in ("GET", "HEAD", "PUT", "DELETE"):
            yield Attack(method, f"/{BUCKET}/team-a/{way}/team-b/secret", body="evil" if method == "PUT" else "")
        for name in ("prefix", "start-after", "continuation-token", "marker"):
            kind = "" if name == "marker" else "list-type=2&"
            own = "" if name == "prefix" else "prefix=team-a/&"
            yield Attack("GET", f"/{BUCKET}?{kind}{own}{name}=team-a/{way}/../team-b/")
            yield Attack("GET", f"/{BUCKET}?{kind}{own}{name}=team-a/{way}/team-b/")
        for between in (way, f"{way}/..", f"deep/{way}/{way}"):
            source = {"x-amz-copy-source": f"/{BUCKET}/team-a/{between}/team-b/secret"}
            yield Attack("PUT", f"/{BUCKET}/team-a/x", source)
            yield Attack("PUT", f"/{BUCKET}/team-a/x?partNumber=1&uploadId={OPEN_UPLOAD}", source)
            yield Attack(
                "PUT", f"/{BUCKET}/team-a/x", {"x-amz-copy-source": source["x-amz-copy-source"].replace("/", "%2F")}
            )
    for id in IDS:
        yield Attack("DELETE", f"/{BUCKET}/team-a/zzz?uploadId={id}")
        yield Attack("GET", f"/{BUCKET}/team-a/zzz?uploadId={id}")
        yield Attack("POST", f"/{BUCKET}/team-a/zzz?uploadId={id}", body="<CompleteMultipartUpload/>")
        yield Attack("PUT", f"/{BUCKET}/team-a/zzz?partNumber=1&uploadId={id}", body="evil")
        source = {"x-amz-copy-source": f"/{BUCKET}/{MINE}"}
        yield Attack("PUT", f"/{BUCKET}/team-a/zzz?partNumber=1&uploadId={id}", source)
    for part in PARTS:
        yield Attack("PUT", f"/{BUCKET}/team-a/zzz?partNumber={part}&uploadId={UPLOAD}", body="evil")
    for name in OF_BUCKETS:
        for method in ("GET", "PUT", "DELETE"):
            yield Attack(method, f"/{BUCKET}?{name}")
    for name in OF_OBJECTS:
        for method in ("GET", "PUT", "DELETE"):
            yield Attack(method, f"/{BUCKET}/{MINE}?{name}")
    for headers in HEADERS:
        yield Attack("PUT", f"/{BUCKET}/team-a/x", headers, "evil")
    for bucket in BUCKETS:
        yield Attack("GET", f"/{bucket}?list-type=2")
        yield Attack("GET", f"/{bucket}/{BUCKET}/{THEIRS}")
        yield Attack("PUT", f"/{bucket}")
        yield Attack("DELETE", f"/{bucket}")
    for key in (".sgwtmp/multipart/x", THEIRS, "team-a-too/x", f"/{THEIRS}"):
        for method in ("GET", "PUT", "DELETE"):
            yield Attack(method, f"/{BUCKET}/{key}", body="evil" if method == "PUT" else "")
    for query in PREFIXES:
        yield Attack("GET", f"/{BUCKET}?list-type=2&{query}")
    yield Attack("POST", f"/{BUCKET}", {"Content-Type": "multipart/form-data; boundary=x"}, FORM)
    yield Attack("POST", f"/{BUCKET}?delete", {"Content-Type": "multipart/form-data; boundary=x"}, FORM)
    for key in KEYS:
        yield Attack("POST", f"/{BUCKET}?delete", body=batch(key, MINE))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """The storage, with an object of each of two namespaces, and one that is shared."""
    folder = tmp_path_factory.mktemp("storage") / "data"
    folder.mkdir()
    with serving_store(folder) as store:
        accounts = folder.with_name("data-accounts")
        for name in ("operator", "namespace-team-a", "namespace-team-b"):
            (accounts / name).write_text(f"key of {name}")
        (folder / "another-bucket").mkdir()
        root = client(store, "root")
        for key in (MINE, THEIRS, SHARED):
            root.put_object(Bucket=BUCKET, Key=key, Body=SECRET)
        yield store


def client(store: ObjectStore, account: str) -> Any:
    """An S3 client with an account's key."""
    secret = store.secret_key if account == "root" else f"key of {account}"
    config = Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}, signature_version="s3v4")
    return boto3.client("s3", endpoint_url=store.endpoint, region_name="us-east-1", config=config,
                        aws_access_key_id=account, aws_secret_access_key=secret)  # fmt: skip


def everything(folder: Path) -> dict[str, Any]:
    """Return all files of the storage, except the attacker's own and the server's locks."""
    files = {}
    for path in sorted(folder.rglob("*")):
        inside = str(path.relative_to(folder))
        if not inside.startswith((f"{BUCKET}/team-a/", f"{BUCKET}/.sgwtmp", ".vgwlocks")):
            noted = {name: os.getxattr(path, name) for name in os.listxattr(path)}
            files[inside] = (path.read_bytes() if path.is_file() else b"", noted)
    return files


def ask(store: ObjectStore, attack: Attack) -> tuple[int, str]:
    """Sign a request as the attacker, send it as it stands, and return status and answer."""
    host = store.endpoint.removeprefix("http://")
    request = AWSRequest(attack.method, f"{store.endpoint}{attack.target}", attack.headers, attack.body.encode())
    S3SigV4Auth(Credentials("namespace-team-a", "key of namespace-team-a"), "s3", "us-east-1").add_auth(request)
    connection = http.client.HTTPConnection(host, timeout=20)
    connection.putrequest(attack.method, attack.target, skip_host=True, skip_accept_encoding=True)
    for name, value in {**dict(request.headers.items()), "Host": host, "Content-Length": str(len(attack.body))}.items():
        connection.putheader(name, value)
    connection.endheaders(attack.body.encode() or None)
    response = connection.getresponse()
    answer = response.read().decode(errors="replace")
    connection.close()
    return response.status, answer


@pytest.mark.attack(
    "training/storage-paths",
    asset="other namespaces' data",
    threat="`..`, encoded dots or slashes, forged upload ids, part numbers, copy sources, keys of a batch "
    "delete, or sub-resources that lead the storage elsewhere",
    control="it answers only requests that the platform's clients send, each parameter and header by its form; "
    "keys and ids are checked again where they become a path; there are no owners, policies, ACLs, "
    "versions or forms to change",
)
@pytest.mark.parametrize("attack", list(attacks()), ids=str)
def test_what_could_lead_elsewhere_is_refused_and_changes_nothing(store: ObjectStore, attack: Attack) -> None:
    """Whatever it names, a request is refused, and the disk outside the attacker's own part stays as it was."""
    before = everything(store.folder)
    if OPEN_UPLOAD in attack.target:
        begun = client(store, "namespace-team-a").create_multipart_upload(Bucket=BUCKET, Key="team-a/x")
        attack = attack._replace(target=attack.target.replace(OPEN_UPLOAD, begun["UploadId"]))

    status, answer = ask(store, attack)

    assert 400 <= status < 500, answer
    assert SECRET.decode() not in answer
    assert everything(store.folder) == before


@pytest.mark.parametrize("way", ["....", "..;", "...", "~", "$HOME", "a..b", "day=1%2F2", "100%", "%41", "[*] +"])
def test_odd_names_are_names(store: ObjectStore, way: str) -> None:
    """A name that looks like a parent folder is part of a key, below the attacker's own name."""
    before = everything(store.folder)
    place = {"Bucket": BUCKET, "Key": f"team-a/{way}/team-b/secret"}
    s3 = client(store, "namespace-team-a")
    s3.put_object(**place, Body=b"own")
    assert s3.get_object(**place)["Body"].read() == b"own"
    assert everything(store.folder) == before


def status_of(asked: Any) -> int:
    """Return the storage's answer to a request of boto3."""
    try:
        return int(asked()["ResponseMetadata"]["HTTPStatusCode"])
    except ClientError as error:
        return int(error.response["ResponseMetadata"]["HTTPStatusCode"])


@pytest.mark.attack(
    "training/namespace-keys",
    asset="other namespaces' data",
    threat="reading, writing or deleting in their prefixes with the storage keys",
    control="the embedded storage has an account for each namespace, which opens `BUCKET/NAMESPACE/` (deleting "
    "too: the trainer removes old checkpoints) and reads `BUCKET/shared/`; the operator's own reads, and adds records; "
    "your own storage takes other keys in each namespace's Secret (see below)",
)
@pytest.mark.parametrize(
    ("account", "reads", "writes", "lists"),
    [
        ("namespace-team-a", {MINE, SHARED}, {MINE}, {"team-a/", "shared/"}),
        ("namespace-team-b", {THEIRS, SHARED}, {THEIRS}, {"team-b/", "shared/"}),
        ("operator", {MINE, THEIRS, SHARED}, set(), {"", "team-a/", "team-b/", "shared/"}),
        ("root", {MINE, THEIRS, SHARED}, {MINE, THEIRS, SHARED}, {"", "team-a/", "team-b/", "shared/"}),
    ],
)
def test_an_account_opens_its_own_part_alone(
    store: ObjectStore, account: str, reads: set[str], writes: set[str], lists: set[str]
) -> None:
    """A namespace has its own part and reads the shared one, the operator reads all, root alone writes everywhere."""
    s3 = client(store, account)
    for key in (MINE, THEIRS, SHARED):
        place = {"Bucket": BUCKET, "Key": key}
        assert (status_of(lambda place=place: s3.get_object(**place)) == 200) == (key in reads)
        assert (status_of(lambda place=place: s3.put_object(**place, Body=SECRET)) == 200) == (key in writes)
        copied = {"Bucket": BUCKET, "Key": f"{key}-copy", "CopySource": f"{BUCKET}/{MINE}"}
        may_copy = key in writes and MINE in reads
        assert (status_of(lambda copied=copied: s3.copy_object(**copied)) == 200) == may_copy
        gone = {"Bucket": BUCKET, "Key": f"{key}-copy"}
        assert (status_of(lambda gone=gone: s3.delete_object(**gone)) == 204) == (key in writes)
    for prefix in ("", "team-a/", "team-b/", "shared/"):
        listed = status_of(lambda prefix=prefix: s3.list_objects_v2(Bucket=BUCKET, Prefix=prefix))
        assert (listed == 200) == (prefix in lists)


def test_an_account_lives_as_long_as_its_key_is_in_the_secret(store: ObjectStore) -> None:
    """A namespace that comes, has its key exchanged and goes needs no restart."""
    file = store.folder.with_name("data-accounts") / "namespace-team-c"
    s3 = client(store, "namespace-team-c")
    place = {"Bucket": BUCKET, "Key": "team-c/x"}

    assert status_of(lambda: s3.put_object(**place, Body=b"")) == 403
    file.write_text("key of namespace-team-c")
    assert status_of(lambda: s3.put_object(**place, Body=b"")) == 200
    file.write_text("another key")
    assert status_of(lambda: s3.get_object(**place)) == 403
    file.write_text("key of namespace-team-c")
    assert status_of(lambda: s3.get_object(**place)) == 200
    file.unlink()
    assert status_of(lambda: s3.get_object(**place)) == 403


def test_nobody_asks_without_a_key(store: ObjectStore) -> None:
    """Without a signature there is nothing but word that the storage is alive."""
    for target, status in (
        (f"/{BUCKET}/{SHARED}", 403),
        (f"/{BUCKET}?list-type=2", 403),
        ("/", 403),
        ("/healthz", 200),
    ):
        connection = http.client.HTTPConnection(store.endpoint.removeprefix("http://"), timeout=20)
        connection.request("GET", target)
        assert connection.getresponse().status == status


RECORD, INDEX = "team-a/records/0000000001.json", "team-a/records/index/0000000001.json"


@pytest.mark.attack(
    "training/records",
    asset="the records of lineage and audit",
    threat="adding, changing or removing records with the storage keys",
    control="the embedded storage takes records from the operator alone, and no second one of a name; root alone "
    "removes them, and `ultramarine audit verify` shows it",
)
@pytest.mark.parametrize("key", [RECORD, INDEX, "team-a/records/x", "team-a/records"])
def test_a_namespace_does_not_touch_its_records(store: ObjectStore, key: str) -> None:
    """The keys of the namespace neither write, copy, upload in parts nor delete among its records."""
    root, own = client(store, "root"), client(store, "namespace-team-a")
    root.put_object(Bucket=BUCKET, Key=RECORD, Body=b"first")
    place = {"Bucket": BUCKET, "Key": key}
    tries = (
        lambda: own.put_object(**place, Body=b"evil"),
        lambda: own.put_object(**place, Body=b"evil", IfNoneMatch="*"),
        lambda: own.copy_object(**place, CopySource=f"{BUCKET}/{MINE}"),
        lambda: own.create_multipart_upload(**place),
        lambda: own.delete_object(**place),
        lambda: own.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": key}]}),
    )

    assert [status_of(ask) for ask in tries] == [403] * len(tries)
    assert own.get_object(Bucket=BUCKET, Key=RECORD)["Body"].read() == b"first"


@pytest.mark.attack("training/records")
def test_the_operator_adds_records_and_nothing_else(store: ObjectStore) -> None:
    """The operator's keys create a record once; they change and remove none, and write nowhere else."""
    operator = client(store, "operator")
    new = {"Bucket": BUCKET, "Key": "team-b/records/0000000007.json"}
    assert status_of(lambda: operator.put_object(**new, Body=b"1", IfNoneMatch="*")) == 200
    assert status_of(lambda: operator.put_object(**new, Body=b"2", IfNoneMatch="*")) == 412
    tries = (
        lambda: operator.put_object(**new, Body=b"2"),
        lambda: operator.copy_object(**new, CopySource=f"{BUCKET}/{MINE}"),
        lambda: operator.create_multipart_upload(**new),
        lambda: operator.delete_object(**new),
        *(
            lambda key=key: operator.put_object(Bucket=BUCKET, Key=key, Body=b"1", IfNoneMatch="*")
            for key in (
                "team-b/x/records/0000000008.json",
                "team-b/records/x.json",
                "team-b/records/index/sub/0000000001.json",
                "records/0000000008.json",
                "team-b/outputs/0000000008.json",
            )
        ),
    )

    assert [status_of(ask) for ask in tries] == [403] * len(tries)
    assert operator.get_object(**new)["Body"].read() == b"1"
