"""Training code that is not inline: from a ConfigMap, an archive in the bucket, and a git repository in a pod."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import gitserver
import pytest
import yaml
from conftest import NAMESPACE, Manifest, Platform, condition
from gitserver import Setup, key_pair
from manifests import TRAIN, training_job
from ultramarine_cluster import __main__ as cli
from ultramarine_contract.meta import content_hash
from ultramarine_operator.shared.podspec import CONTAINER_SECURITY, POD_SECURITY

KEY, PUBLIC_KEY = key_pair()
HOST_KEY, HOST_PUBLIC_KEY = key_pair()
TOKEN = "s3cr3t-token"
PORTS = (8000, 2222)

# Fails where the command's container has any of the credentials, in files or in the environment of a process.
LOOK = """
import pathlib
folders = [pathlib.Path(name) for name in ("/mnt", "/tmp", "/workspace", "/run", "/var", "/etc", "/dev/shm")]
files = [path for folder in folders for path in folder.rglob("*") if path.is_file() and path.name != "look.py"]
for path in [*files, *pathlib.Path("/proc").glob("[0-9]*/environ")]:
    try:
        content = path.read_bytes()
    except OSError:
        continue
    assert b"s3cr3t-token" not in content and b"PRIVATE KEY" not in content, path
print(f"looked={len(files)}")
"""


def sourced(name: str, source: Manifest, **spec: object) -> Manifest:
    """A TrainingJob whose code comes from there."""
    made = training_job(name, **spec)
    made["spec"]["source"] = source
    return made


@pytest.fixture(scope="module")
def git(platform: Platform) -> Iterator[tuple[str, str]]:
    """A git server in the namespace, with its address and the id of its commit; training pods may reach it."""
    setup = Setup(
        files={"src/train.py": TRAIN, "src/look.py": LOOK},
        host="0.0.0.0",
        http_port=PORTS[0],
        ssh_port=PORTS[1],
        password=TOKEN,
        authorized_key=PUBLIC_KEY,
        host_key=HOST_KEY,
    )
    container = {
        "name": "git",
        "image": platform.settings.images.trainer,
        "command": ["python", "/server/gitserver.py"],
        "env": [{"name": "GITSERVER", "value": setup.to_json()}],
        "readinessProbe": {"tcpSocket": {"port": 2222}, "periodSeconds": 1},
        "securityContext": CONTAINER_SECURITY,
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, {"name": "server", "mountPath": "/server"}],
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "git", "labels": {"app": "git"}},
        "spec": {
            "securityContext": POD_SECURITY,
            "automountServiceAccountToken": False,
            "containers": [container],
            "volumes": [{"name": "tmp", "emptyDir": {}}, {"name": "server", "configMap": {"name": "git-server"}}],
        },
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "git"},
        "spec": {"selector": {"app": "git"}, "ports": [{"name": f"p{n}", "port": n} for n in PORTS]},
    }
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "git"},
        "spec": {
            "podSelector": {"matchLabels": {"ultramarine.dev/kind": "TrainingJob"}},
            "policyTypes": ["Egress"],
            "egress": [
                {"to": [{"podSelector": {"matchLabels": {"app": "git"}}}], "ports": [{"port": n} for n in PORTS]}
            ],
        },
    }
    program = {"gitserver.py": Path(gitserver.__file__).read_text()}
    code = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "git-server"}, "data": program}
    platform.delete("pod", "git")
    platform.kubectl("apply", "-f", "-", input=yaml.safe_dump_all([code, pod, service, policy]))
    platform.kubectl("wait", "--for=condition=Ready", "pod/git", "--timeout=240s")
    commit = platform.kubectl("logs", "git").split()[0]
    yield f"http://git.{NAMESPACE}.svc:8000/churn.git", commit
    objects = ("pod/git", "service/git", "networkpolicy/git", "configmap/git-server")
    platform.kubectl("delete", *objects, "--grace-period=1")


@pytest.mark.slow
def test_code_from_a_git_repository(platform, git):
    """A folder of the default branch is what runs, and the job says which commit that was."""
    url, commit = git
    platform.delete("tj", "from-git")
    platform.apply(sourced("from-git", {"git": {"url": url, "path": "src"}}, backoffLimit=2))
    status = platform.ended("from-git")

    assert status["state"] == "Succeeded"
    assert status["provenance"]["gitCommit"] == commit


@pytest.mark.parametrize(
    ("name", "git_of", "reason", "words"),
    [
        ("no-ref", {"ref": "gone"}, "GitRefNotFound", "has no branch, tag or commit 'gone'; its branches are: master"),
        ("no-path", {"path": "lib"}, "GitPathNotFound", "spec.source.git.path lib is not in"),
    ],
)
def test_a_ref_or_folder_that_is_not_there_is_told(platform, git, name, git_of, reason, words):
    """It fails at once, without a retry, and says what there is instead."""
    platform.delete("tj", name)
    platform.apply(sourced(name, {"git": {"url": git[0], **git_of}}, backoffLimit=3))
    status = platform.ended(name)

    assert (status["failure"]["reason"], status["attempts"]) == (reason, 1)
    assert words in status["failure"]["message"]


@pytest.mark.attack("training/git-credentials")
def test_code_from_a_private_repository(platform, git):
    """A token and a key open it for the source alone; the command finds neither, and logs and status have neither."""
    host, commit = f"git.{NAMESPACE}.svc", git[1]
    http, ssh = f"http://{host}:8000/private.git", f"ssh://git@{host}:2222/private.git"
    known, key = f"[{host}]:2222 {HOST_PUBLIC_KEY}", {"ssh-privatekey": KEY}
    secrets = {
        "git-token": ("Opaque", {"token": TOKEN}),
        "git-key": ("kubernetes.io/ssh-auth", {**key, "known_hosts": known}),
        "git-other-host": ("kubernetes.io/ssh-auth", {**key, "known_hosts": f"[{host}]:2222 {PUBLIC_KEY}"}),
    }
    sources = {
        "git-token": {"url": http, "path": "src", "secretRef": {"name": "git-token"}},
        "git-key": {"url": ssh, "path": "src", "secretRef": {"name": "git-key"}},
        "git-other-host": {"url": ssh, "secretRef": {"name": "git-other-host"}},
        "git-no-secret": {"url": http},
    }
    command = ["sh", "-c", "python look.py && python train.py $(outputs.model)"]
    platform.delete("tj", *sources)
    made = [
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": type, "stringData": data}
        for name, (type, data) in secrets.items()
    ]
    platform.kubectl("apply", "-f", "-", input=yaml.safe_dump_all(made))
    platform.apply(*(sourced(name, {"git": of}, command=command, backoffLimit=3) for name, of in sources.items()))
    ended = {name: platform.ended(name) for name in sources}

    for name in ("git-token", "git-key"):
        assert (ended[name]["state"], ended[name]["provenance"]["gitCommit"]) == ("Succeeded", commit), ended[name]
        log = platform.kubectl("logs", f"job/{name}", "--all-containers")
        assert f"source: commit {commit}" in log
        told = log + yaml.safe_dump(platform.get("tj", name)) + yaml.safe_dump(platform.get("job", name))
        assert TOKEN not in told
        assert "PRIVATE KEY" not in told
    refused = {name: ended[name]["failure"] for name in ("git-other-host", "git-no-secret")}
    assert {name: one["reason"] for name, one in refused.items()} == {
        "git-other-host": "GitHostKeyChanged",
        "git-no-secret": "SourceNotFound",
    }
    assert "spec.source.git.secretRef" in refused["git-no-secret"]["message"]
    assert {ended[name]["attempts"] for name in refused} == {1}


@pytest.mark.attack("author/source-archive")
def test_code_from_an_archive_with_its_digest(platform):
    """A .tar.gz in the bucket is unpacked, if it is the one whose digest was asked for; another one is refused."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        info = tarfile.TarInfo("train.py")
        info.size = len(TRAIN.encode())
        tar.addfile(info, io.BytesIO(TRAIN.encode()))
    uri = platform.put("code.tar.gz", packed.getvalue())
    digest = f"sha256:{hashlib.sha256(packed.getvalue()).hexdigest()}"
    platform.delete("tj", "from-archive", "other-archive")
    platform.apply(
        sourced("from-archive", {"uri": uri, "digest": digest}),
        sourced("other-archive", {"uri": uri, "digest": f"sha256:{'0' * 64}"}, backoffLimit=3),
    )

    assert platform.ended("from-archive")["provenance"]["sourceDigest"] == digest
    status = platform.ended("other-archive")
    assert (status["failure"]["reason"], status["attempts"]) == ("DigestMismatch", 1)
    assert f"but spec.source.digest is sha256:{'0' * 64}" in status["failure"]["message"]


@pytest.mark.slow
def test_code_from_a_config_map_that_comes_later(platform):
    """An attempt without the ConfigMap says what is missing; one after it was made succeeds."""
    platform.delete("tj", "from-config-map")
    platform.delete("configmap", "my-code")
    platform.apply(sourced("from-config-map", {"configMap": {"name": "my-code"}}, backoffLimit=6))
    said = platform.wait("tj", "from-config-map", lambda s: condition(s, "Running").get("reason") == "Retrying")
    assert "ConfigMap my-code is not there, or empty; create it" in condition(said, "Running")["message"]

    platform.kubectl("create", "configmap", "my-code", f"--from-literal=train.py={TRAIN}")
    status = platform.ended("from-config-map", 300)
    assert status["state"] == "Succeeded"
    assert status["provenance"]["sourceDigest"] == f"sha256:{content_hash({'train.py': TRAIN})}"


@pytest.mark.slow
def test_an_image_of_ones_own_comes_from_a_folder(platform, tmp_path, capsys):
    """A Dockerfile on the trainer image is built, loaded without a registry, and runs by the name that is printed."""
    (tmp_path / "Dockerfile").write_text("ARG BASE\nFROM ${BASE}\nCOPY train.py ./\n")
    (tmp_path / "train.py").write_text("print('own=1')\n")
    assert cli.main(["images", "load", str(tmp_path), "--as", "team-train:own"]) == 0
    assert "pods find it as team-train:own" in capsys.readouterr().out

    job = training_job("own-image", image="team-train:own", command=["python", "train.py"], outputs={})
    del job["spec"]["source"]
    platform.delete("tj", "own-image")
    platform.apply(job)
    assert platform.ended("own-image")["metrics"]["latest"] == {"own": 1}
