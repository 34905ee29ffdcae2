"""Training code that is not inline: from a ConfigMap, an archive in the bucket, and a git repository in a pod."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator

import pytest
import yaml
from conftest import NAMESPACE, Manifest, Platform, condition
from manifests import TRAIN, training_job
from ultramarine.shared.meta import content_hash
from ultramarine.shared.pods import CONTAINER_SECURITY, POD_SECURITY

# Serves a repository of one commit, whose id it writes to its log.
GIT_SERVER = """
import pathlib, sys
from dulwich import porcelain
from dulwich.server import DictBackend
from dulwich.web import HTTPGitApplication, WSGIRequestHandlerLogger, WSGIServerLogger, make_server
repository = porcelain.init("/tmp/churn")
path = pathlib.Path("/tmp/churn/src/train.py")
path.parent.mkdir()
path.write_text(sys.argv[1])
porcelain.add("/tmp/churn", [str(path)])
who = b"Ada <ada@example.com>"
print(porcelain.commit("/tmp/churn", message=b"work", author=who, committer=who).decode(), flush=True)
app = HTTPGitApplication(DictBackend({"/churn.git": repository}))
make_server("0.0.0.0", 8000, app, WSGIServerLogger, WSGIRequestHandlerLogger).serve_forever()
"""


def sourced(name: str, source: Manifest, **spec: object) -> Manifest:
    """A TrainingJob whose code comes from there."""
    made = training_job(name, **spec)
    made["spec"]["source"] = source
    return made


@pytest.fixture(scope="module")
def git(platform: Platform) -> Iterator[tuple[str, str]]:
    """A git server in the namespace, with its address and the id of its commit; training pods may reach it."""
    operator = platform.get("deployment", "ultramarine-operator")["spec"]["template"]["spec"]["containers"][0]
    container = {
        "name": "git",
        "image": next(v["value"] for v in operator["env"] if v["name"] == "ULTRAMARINE_TRAINER_IMAGE"),
        "command": ["python", "-c", GIT_SERVER, TRAIN],
        "readinessProbe": {"tcpSocket": {"port": 8000}, "periodSeconds": 1},
        "securityContext": CONTAINER_SECURITY,
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "git", "labels": {"app": "git"}},
        "spec": {
            "securityContext": POD_SECURITY,
            "automountServiceAccountToken": False,
            "containers": [container],
            "volumes": [{"name": "tmp", "emptyDir": {}}],
        },
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "git"},
        "spec": {"selector": {"app": "git"}, "ports": [{"port": 8000}]},
    }
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "git"},
        "spec": {
            "podSelector": {"matchLabels": {"ultramarine.dev/kind": "TrainingJob"}},
            "policyTypes": ["Egress"],
            "egress": [{"to": [{"podSelector": {"matchLabels": {"app": "git"}}}], "ports": [{"port": 8000}]}],
        },
    }
    platform.delete("pod", "git")
    platform.kubectl("apply", "-f", "-", input=yaml.safe_dump_all([pod, service, policy]))
    platform.kubectl("wait", "--for=condition=Ready", "pod/git", "--timeout=60s")
    commit = platform.kubectl("logs", "git").split()[0]
    yield f"http://git.{NAMESPACE}.svc:8000/churn.git", commit
    platform.kubectl("delete", "pod/git", "service/git", "networkpolicy/git", "--grace-period=1")


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


def test_code_from_a_config_map_that_comes_later(platform):
    """An attempt without the ConfigMap says what is missing; one after it was made succeeds."""
    platform.delete("tj", "from-config-map")
    platform.delete("configmap", "my-code")
    platform.apply(sourced("from-config-map", {"configMap": {"name": "my-code"}}, backoffLimit=6))
    said = platform.wait("tj", "from-config-map", lambda s: condition(s, "Running").get("reason") == "Retrying")
    assert "ConfigMap my-code is not there, or empty; create it" in condition(said, "Running")["message"]

    platform.kubectl("create", "configmap", "my-code", f"--from-literal=train.py={TRAIN}")
    status = platform.ended("from-config-map", 180)
    assert status["state"] == "Succeeded"
    assert status["provenance"]["sourceDigest"] == f"sha256:{content_hash({'train.py': TRAIN})}"
