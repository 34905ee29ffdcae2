"""Hostile code for the inside of a pod; it prints what became of each try.

`python inside.py '{"tries": [NAME, ...], ...}'` does these, with the addresses that stand beside them. A try that
returns has succeeded, and says what it got; one that raises was refused. Nothing that is secret is printed.
"""

from __future__ import annotations

import base64
import ctypes
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

TOKEN = Path("/var/run/ultramarine/token")
CLONE_NEWNET, MS_BIND = 0x40000000, 4096
PIVOT_ROOT, REBOOT, INIT_MODULE, KEYCTL, BPF = 155, 169, 175, 250, 321  # of x86-64

Try = Callable[[dict[str, Any]], Any]
TRIES: dict[str, Try] = {}


def named(name: str) -> Callable[[Try], Try]:
    """Give a try its name."""

    def put(attempt: Try) -> Try:
        TRIES[name] = attempt
        return attempt

    return put


# The node, by the kernel


def _called(name: str, *arguments: Any) -> None:
    """Call into the C library, which tells refusals by a negative number."""
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _write(path: str) -> Try:
    def attempt(_: dict[str, Any]) -> None:
        Path(path).write_text("1")

    return attempt


def _read(path: str) -> Try:
    return lambda _: bool(Path(path).read_bytes()) or _fail("empty")


def _fail(why: str) -> Any:
    raise OSError(why)


for _path in (
    "/evil", "/etc/passwd", "/usr/local/bin/python", "/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger",
    "/sys/fs/cgroup/memory.max", "/sys/kernel/uevent_helper", "/dev/kmsg", "/dev/mem", "/var/run/ultramarine/token",
    "/etc/hosts", "/var/lib/x", "/root/x",
):  # fmt: skip
    TRIES[f"write {_path}"] = _write(_path)
for _path in (
    "/etc/shadow", "/proc/kcore", "/dev/mem", "/root/.kube/config",
    "/var/run/secrets/kubernetes.io/serviceaccount/token", "/run/containerd/containerd.sock", "/var/run/docker.sock",
    "/var/lib/kubelet/config.yaml", "/etc/kubernetes/admin.conf",
):  # fmt: skip
    TRIES[f"read {_path}"] = _read(_path)

TRIES["become root"] = lambda _: os.setuid(0)
TRIES["become another group"] = lambda _: os.setgroups([0])
TRIES["change the root"] = lambda _: os.chroot("/tmp")
TRIES["make a device"] = lambda _: os.mknod("/tmp/disk", 0o60644, os.makedev(8, 0))
TRIES["mount"] = lambda _: _called("mount", b"/", b"/tmp", b"", MS_BIND, None)
TRIES["leave the root"] = lambda _: _called("syscall", PIVOT_ROOT, b"/tmp", b"/tmp")
TRIES["a network of one's own"] = lambda _: _called("unshare", CLONE_NEWNET)
TRIES["the node's namespaces"] = lambda _: _called("setns", os.open("/proc/1/ns/net", os.O_RDONLY), 0)
TRIES["another host name"] = lambda _: socket.sethostname("evil")
TRIES["raw packets"] = lambda _: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()
TRIES["frames"] = lambda _: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 3).close()
TRIES["more priority"] = lambda _: os.nice(-5)
TRIES["the time"] = lambda _: time.clock_settime(time.CLOCK_REALTIME, time.time())
TRIES["a kernel module"] = lambda _: _called("syscall", INIT_MODULE, b"", 0, b"")
TRIES["a reboot"] = lambda _: _called("syscall", REBOOT, 0xFEE1DEAD, 672274793, 0x89ABCDEF, None)
TRIES["keys of the kernel"] = lambda _: _called("syscall", KEYCTL, 0, -3, 0)
TRIES["a program of the kernel's"] = lambda _: _called("syscall", BPF, 5, b"\0" * 72, 72)


@named("a setuid program")
def _setuid(_: dict[str, Any]) -> str:
    paths = [path for path in Path("/usr/bin").iterdir() if path.exists() and path.stat().st_mode & 0o4000]
    for path in paths:
        done = subprocess.run([str(path), "-c", "id -u"], capture_output=True, text=True, timeout=5, check=False)
        if done.stdout.strip() == "0":
            return str(path)
    raise OSError("none that gives root")


NODE = tuple(TRIES)

# The network


def _connect(name: str) -> Try:
    def attempt(to: dict[str, Any]) -> str:
        host, port = to[name]
        socket.create_connection((host, port), timeout=2).close()
        return f"{host}:{port}"

    return attempt


CLOSED = (
    "API server", "API server on the node", "etcd", "kubelet", "kubelet's health", "metadata", "metadata by IPv6",
    "metrics server", "DNS server's metrics", "gateway's agent", "gateway's readiness", "server of another endpoint",
    "gRPC of another endpoint", "operator's other port", "storage's other port", "the internet", "link-local neighbour",
    "SSH of the node", "storage",
)  # fmt: skip
for _name in CLOSED:
    TRIES[f"reach {_name}"] = _connect(_name)


@named("reach IPv6 neighbours")
def _neighbours(_: dict[str, Any]) -> str:
    addresses = Path("/proc/net/if_inet6").read_text().split("\n")  # IPv6 is off if the file is missing.
    lines = [line for line in addresses if line and not line.endswith(" lo")]
    return lines[0] if lines else _fail("no address")


NETWORK = tuple(name for name in TRIES if name not in NODE)

# The operator's port, which training pods may reach


def _post(path: str, body: bytes = b"{}", **headers: str) -> Try:
    def attempt(to: dict[str, Any]) -> str:
        url = f"http://{to['operator'][0]}:{to['operator'][1]}" + path.format(**to["names"])
        token = TOKEN.read_text().strip()
        made = {name.replace("_", "-"): value.format(token=token) for name, value in headers.items()}
        asked = urllib.request.Request(url, body, made, method="POST")
        try:
            with urllib.request.urlopen(asked, timeout=10) as answer:
                return f"{answer.status}"
        except urllib.error.HTTPError as error:
            if error.code >= 500:
                return f"{error.code}"
            raise

    return attempt


OWN = {"Authorization": "Bearer {token}"}
TRIES["report for another job"] = _post("/progress/{namespace}/other", **OWN)
TRIES["report for another namespace"] = _post("/progress/kube-system/{job}", **OWN)
TRIES["report for a sweep"] = _post("/sweeps/{namespace}/{job}", **OWN)
TRIES["report without a token"] = _post("/progress/{namespace}/{job}")
TRIES["report with a made-up token"] = _post("/progress/{namespace}/{job}", Authorization="Bearer e30.e30.e30")
TRIES["report by another path"] = _post("/progress/{namespace}/other/../{job}", **OWN)
TRIES["report by an encoded path"] = _post("/progress/{namespace}%2fother/{job}", **OWN)
TRIES["report nonsense"] = _post("/progress/{namespace}/{job}", b"\x80\x04K\x01.", **OWN)
TRIES["report lists in lists"] = _post("/progress/{namespace}/{job}", b"[" * 100_000, **OWN)
TRIES["report too much"] = _post("/progress/{namespace}/{job}", b"[" + b"0," * 300_000 + b"0]", **OWN)
TRIES["report without gzip as gzip"] = _post("/progress/{namespace}/{job}", b"x", Content_Encoding="gzip", **OWN)
TRIES["report a bomb"] = _post(
    "/progress/{namespace}/{job}", zlib.compress(bytes(2**27), 9), Content_Encoding="deflate", **OWN
)
TRIES["report by another's header"] = _post("/progress/{namespace}/other", X_Remote_User="system:admin", **OWN)
TRIES["have the operator do something"] = _post("/api/v1/namespaces", **OWN)
TRIES["end the operator"] = _post("/quitquitquit")


# The storage, with the keys that the pod has anyway


def _trainers() -> dict[str, str]:
    """The environments of the pod's processes: the command finds its trainer's keys and task there."""
    variables = dict(os.environ)
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            parts = path.read_bytes().split(b"\0")
        except OSError:
            continue
        variables |= {name.decode(): value.decode() for name, sep, value in (p.partition(b"=") for p in parts) if sep}
    return variables


def _client(to: dict[str, Any], account: str, secret: str) -> Any:
    import boto3

    return boto3.client(
        "s3",
        endpoint_url="http://{}:{}".format(*to["storage"]),
        region_name="us-east-1",
        aws_access_key_id=account,
        aws_secret_access_key=secret,
    )


def _stored(method: str, place: dict[str, str], account: Callable[[str], str] = str) -> Try:
    """Ask the storage by the pod's own keys, or by another account's name with their secret."""

    def attempt(to: dict[str, Any]) -> str:
        from botocore.exceptions import ClientError

        trainers = _trainers()
        own, secret = trainers["AWS_ACCESS_KEY_ID"], trainers["AWS_SECRET_ACCESS_KEY"]
        bucket, _, prefix = json.loads(trainers["ULTRAMARINE_TASK"])["output_prefix"][5:].partition("/")
        # First an allowed request: otherwise a refusal would mean nothing.
        _client(to, own, secret).put_object(Bucket=bucket, Key=f"{prefix}mine")
        try:
            asked = {name: value.format(**to["names"]) for name, value in place.items()}
            getattr(_client(to, account(own), secret), method)(**asked)
        except ClientError as error:
            raise OSError(error.response["Error"]["Code"]) from None
        return method

    return attempt


def _wider(own: str) -> str:
    """The account's name with a scope of the whole bucket."""
    scope = base64.urlsafe_b64encode(json.dumps({"write": [""], "read": [""]}).encode()).decode().rstrip("=")
    return f"{own.partition('~')[0]}~{scope}"


OWN_NAMESPACE = {"Bucket": "ultramarine", "Key": "{namespace}/tests/besieged.onnx"}
TRIES["read what others of the namespace stored"] = _stored("get_object", OWN_NAMESPACE)
TRIES["write what others of the namespace stored"] = _stored("put_object", OWN_NAMESPACE)
TRIES["ask as the namespace"] = _stored("get_object", OWN_NAMESPACE, lambda own: own.partition("~")[0])
TRIES["ask as the operator"] = _stored("get_object", OWN_NAMESPACE, lambda _: "operator")
TRIES["ask by a wider scope"] = _stored("get_object", OWN_NAMESPACE, _wider)
THEIRS = {"Bucket": "ultramarine", "Key": "another-team/secret"}
TRIES["read another namespace's object"] = _stored("get_object", THEIRS)
TRIES["write another namespace's object"] = _stored("put_object", THEIRS)
TRIES["delete another namespace's object"] = _stored("delete_object", THEIRS)
TRIES["copy another namespace's object"] = _stored(
    "copy_object", {"Bucket": "ultramarine", "Key": "{namespace}/x", "CopySource": "ultramarine/another-team/secret"}
)
TRIES["list another namespace's objects"] = _stored(
    "list_objects_v2", {"Bucket": "ultramarine", "Prefix": "another-team/"}
)
TRIES["list all namespaces"] = _stored("list_objects_v2", {"Bucket": "ultramarine", "Delimiter": "/"})
TRIES["write what all read"] = _stored("put_object", {"Bucket": "ultramarine", "Key": "shared/x"})
TRIES["climb out of the prefix"] = _stored(
    "get_object", {"Bucket": "ultramarine", "Key": "{namespace}/../another-team/secret"}
)
TRIES["open the bucket"] = _stored("put_bucket_acl", {"Bucket": "ultramarine", "ACL": "public-read"})
TRIES["another bucket"] = _stored("create_bucket", {"Bucket": "evil"})


def main() -> None:
    """Print a line of JSON for each try."""
    to = json.loads(sys.argv[1])
    for name in to["tries"]:
        try:
            got: Any = TRIES[name](to)
        except (OSError, subprocess.SubprocessError) as error:
            print(json.dumps({"try": name, "refused": f"{type(error).__name__}: {error}"[:200]}), flush=True)
        else:
            print(json.dumps({"try": name, "got": str(got)[:200]}), flush=True)


if __name__ == "__main__":
    main()
