"""The Kubernetes for the product: the embedded one, kind if a Docker engine answers, or a named context.

A target offers the same for all three: kubectl, Helm, and a URL of a Service for this machine.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
from ruamel.yaml import YAML

from . import cluster, images
from .console import TRANSFER, run, say, step
from .errors import ClusterError
from .indexes import Index
from .paths import REPOSITORY, State, cache

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

KIND_CLUSTER = "ultramarine"
OLDEST_HELM = (3, 17)
CHART = REPOSITORY / "charts" / "ultramarine"
BASED_IMAGES = ("operator", "trainer", "server", "gateway")
OWN_IMAGES = (*BASED_IMAGES, "storage")


@dataclass(frozen=True)
class Target:
    """A Kubernetes that answers, and its client programs."""

    where: str  # embedded, kind or context
    kubectl: tuple[str, ...]  # with its kubeconfig and context
    helm: tuple[str, ...]
    shown: str  # the command after which a user's own `kubectl` works

    def run(self, *words: str, input: str | None = None) -> str:
        """Run kubectl with these arguments and return its output."""
        return run(*self.kubectl, *words, input=input)

    def json(self, *words: str) -> Any:
        """Run kubectl with these arguments and return its JSON output."""
        return json.loads(self.run(*words, "-o", "json"))

    def secret(self, namespace: str, name: str) -> dict[str, str]:
        """Return a Secret's values as text."""
        data = self.json("get", "secret", name, "-n", namespace)["data"]
        return {key: base64.b64decode(value).decode() for key, value in data.items()}

    @contextmanager
    def bucket(self, namespace: str) -> Iterator[S3Client]:
        """Yield an S3 client with all rights for the embedded storage of the release in `namespace`."""
        secret = self.secret(namespace, "ultramarine-storage-accounts")["root"]
        with self.reach(namespace, "ultramarine-storage", 7070) as url:
            yield boto3.client(
                "s3",
                endpoint_url=url,
                region_name="us-east-1",
                aws_access_key_id="root",
                aws_secret_access_key=secret,
            )

    @contextmanager
    def reach(self, namespace: str, service: str, port: int, *, tls: bool = False) -> Iterator[str]:
        """Yield a base URL at which this machine reaches a Service during the block.

        With `tls` the host is localhost, which the platform's certificates name.
        """
        if self.where == "embedded" and not tls:  # this machine is the node, which routes to Services
            address = self.json("get", "service", "-n", namespace, service)["spec"]["clusterIP"]
            yield f"http://{address}:{port}"
            return
        with self.forward(namespace, f"service/{service}", port) as local:
            yield f"https://localhost:{local}" if tls else f"http://127.0.0.1:{local}"

    @contextmanager
    def forward(self, namespace: str, to: str, port: int) -> Iterator[int]:
        """Yield a port of loopback that kubectl forwards to `pod/NAME` or `service/NAME` during the block."""
        with subprocess.Popen(
            [*self.kubectl, "port-forward", "-n", namespace, to, f":{port}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            try:
                assert process.stdout is not None
                line = process.stdout.readline()
                if (forwarded := re.search(r"127\.0\.0\.1:(\d+)", line)) is None:
                    raise ClusterError(f"kubectl port-forward: {line.strip()}", f"check that {to} is ready")
                threading.Thread(target=process.stdout.read, daemon=True).start()  # a line for each connection
                yield int(forwarded[1])
            finally:
                process.terminate()


def choose(context: str = "", *, own: bool = False) -> Target:
    """Return the named context; otherwise kind, if Docker answers and kind is installed, or the embedded cluster.

    With `own` it is always the embedded cluster.
    """
    if context:
        return _context(context)
    if own:
        return embedded(cluster.up(beside=BASED_IMAGES))
    if images.docker() and shutil.which("kind") and shutil.which("kubectl") and shutil.which("helm"):
        return _kind()
    if images.docker():
        say("          Docker answers, but kind, kubectl or helm is not installed: using the embedded cluster")
    return embedded(cluster.up(beside=BASED_IMAGES))


def embedded(running: cluster.Cluster) -> Target:
    """Return the embedded cluster as a target."""
    kubeconfig = ("--kubeconfig", str(running.kubeconfig))
    return Target(
        "embedded",
        (str(running.kubectl), *kubeconfig),
        (str(running.helm), *kubeconfig),
        # At the end, so that only what the machine lacks comes from the virtual environment: `ultramarine`.
        f"export KUBECONFIG={running.kubeconfig} PATH={running.kubectl.parent}:$PATH:{Path(sys.executable).parent}",
    )


def _kind() -> Target:
    with step("kind cluster") as notes:
        if KIND_CLUSTER in run("kind", "get", "clusters").split():
            notes.append("already there")
        else:
            config = str(REPOSITORY / "kind-config.yaml")
            say("          kind makes its cluster; the first time it fetches an image of 400 MB")
            words = ("--name", KIND_CLUSTER, "--config", config, "--wait", "120s")
            run("kind", "create", "cluster", *words, timeout=TRANSFER)
    _check_helm()
    context = f"kind-{KIND_CLUSTER}"
    made = Target(
        "kind",
        ("kubectl", "--context", context),
        ("helm", "--kube-context", context),
        f"kubectl config use-context {context}",
    )
    try:
        made.run("get", "--raw", "/readyz")
    except subprocess.CalledProcessError as error:  # a killed run made a part of it, or Docker was stopped
        raise ClusterError(
            f"the kind cluster {KIND_CLUSTER} does not answer: {error.stderr.strip()}",
            f"kind delete cluster --name {KIND_CLUSTER}, then run the command again",
            step="kind cluster",
        ) from error
    return made


def _check_helm() -> None:
    """Reject a Helm without --take-ownership."""
    version = run("helm", "version", "--short")
    numbers = re.search(r"v(\d+)\.(\d+)", version)
    if numbers is None or tuple(map(int, numbers.groups())) < OLDEST_HELM:
        oldest = ".".join(map(str, OLDEST_HELM))
        raise ClusterError(f"helm is {version.strip()}", f"install Helm {oldest} or newer", step="helm")


def _context(context: str) -> Target:
    for program in ("kubectl", "helm"):
        if shutil.which(program) is None:
            raise ClusterError(f"{program} is not installed", f"install {program}, or omit CONTEXT", step="context")
    _check_helm()
    made = Target(
        "context",
        ("kubectl", "--context", context),
        ("helm", "--kube-context", context),
        f"kubectl config use-context {context}",
    )
    try:
        made.run("get", "--raw", "/readyz")
    except subprocess.CalledProcessError as error:
        raise ClusterError(
            f"the context {context} does not answer: {error.stderr.strip()}",
            "choose one of `kubectl config get-contexts`",
            step="context",
        ) from error
    return made


def push_images(names: Iterable[str]) -> dict[str, str]:
    """Build missing images, push them to $REGISTRY, and return their references."""
    if not (registry := os.environ.get("REGISTRY", "")):
        raise ClusterError(
            "REGISTRY is not set: nodes elsewhere cannot read images that are built here",
            "set it to a registry that both reach: REGISTRY=registry.example.com/team",
        )
    references: dict[str, str] = {}
    for name in names:
        with step(f"image {name}") as notes:
            references[name] = images.push(images.build(name), registry)
            notes.append(f"pushed as {references[name]}")
    return references


def give_images(target: Target, names: tuple[str, ...]) -> dict[str, str]:
    """Build missing images, import them into the target's nodes, and return their references."""
    if target.where == "context":
        return push_images(names)
    references: dict[str, str] = {}
    for name in names:
        with step(f"image {name}") as notes:
            reference = images.build(name) if target.where == "kind" else images.build_archive(name)
            loaded = images.load(reference, kind=KIND_CLUSTER if target.where == "kind" else None)
            references[name] = reference.removeprefix("docker.io/")
            notes += [references[name], "loaded" if loaded else "already loaded"]
    return references


def install(target: Target, namespace: str = "ultramarine", *settings: str) -> dict[str, str]:
    """Install or upgrade the chart with freshly built images, wait until it is ready, and return the images.

    `settings` are Helm's own: KEY=VALUE for --set-json.
    """
    references = give_images(target, OWN_IMAGES)
    upgrade(target, namespace, references, *settings)
    return references


def upgrade(target: Target, namespace: str, references: dict[str, str], *settings: str, chart: Path = CHART) -> None:
    """Install or upgrade a chart with images that the nodes have, and wait until it is ready."""
    words = []
    defaults = YAML(typ="safe").load(chart / "values.yaml")  # an older chart has fewer
    for name in (name for name in OWN_IMAGES if name in defaults["images"]):
        repository, _, tag = references[name].rpartition(":")
        words += [f"images.{name}.repository={json.dumps(repository)}", f"images.{name}.tag={json.dumps(tag)}"]
    with step("Helm installs the chart") as notes:
        if (ended := _finish(target, namespace)) is not None:
            notes.append(ended)
        if not any(word.startswith("namespaces=") for word in settings):
            words.append(f"namespaces={json.dumps(_namespaces(target, namespace))}")
        if target.where != "context" and "environments" in defaults:
            index = Index.of(dict(os.environ))
            words += index.words()
            index.give(target, namespace)  # before the operator's pod starts
        argv = [*target.helm, "upgrade", "--install", "ultramarine", str(chart)]
        argv += ["--namespace", namespace, "--create-namespace", "--wait", "--timeout", "180s"]
        # CRDs that kubectl or another release has applied become this release's; otherwise Helm refuses to start.
        # In the user's own context they may belong to a release in use.
        if target.where != "context":
            argv += ["--take-ownership"]
            words += ["crds.takeOver=true"] if "takeOver" in defaults["crds"] else []
        for word in (*words, *settings):
            argv += ["--set-json", word]
        try:
            run(*argv)
        except subprocess.CalledProcessError as error:
            raise ClusterError(
                f"Helm: {error.stderr.strip()[-1500:]}\n{_what_pods_say(target, namespace)}",
                f"look at the pods: {target.shown}; kubectl -n {namespace} describe pods",
            ) from error
        notes.append(f"release ultramarine in namespace {namespace}")


def _namespaces(target: Target, namespace: str) -> list[str]:
    """Return the release's namespaces besides its own: an upgrade without one would end its isolation."""
    words = (*target.helm, "get", "values", "ultramarine", "--namespace", namespace, "-o", "json")
    asked = subprocess.run(words, capture_output=True, text=True, check=False)
    if asked.returncode != 0:
        if "not found" in asked.stderr:
            return []
        raise ClusterError(
            f"Helm does not return the release's values: {asked.stderr.strip()}", "run the command again"
        )
    values: dict[str, Any] = json.loads(asked.stdout) or {}
    return list(values.get("namespaces") or [])


def _finish(target: Target, namespace: str) -> str | None:
    """Undo the operation of a killed Helm, since Helm refuses to continue it; return a note, or None."""
    words = (*target.helm, "status", "ultramarine", "--namespace", namespace, "-o", "json")
    asked = subprocess.run(words, capture_output=True, text=True, check=False)
    state = json.loads(asked.stdout)["info"]["status"] if asked.returncode == 0 else ""
    if not state.startswith("pending-"):
        return None
    word = "uninstall" if state == "pending-install" else "rollback"
    run(*target.helm, word, "ultramarine", "--namespace", namespace)
    return f"the release was left {state} by an earlier run: helm {word}"


def _what_pods_say(target: Target, namespace: str) -> str:
    """Return the pods of a release that is not ready, and the last lines of the operator."""
    shown = target.run("get", "pods", "-n", namespace, "-o", "wide")
    words = (*target.kubectl, "logs", "-n", namespace, "deployment/ultramarine-operator", "--tail", "10")
    log = subprocess.run(words, capture_output=True, text=True, check=False)
    return f"{shown}{log.stdout}{log.stderr}"


def leave_logs(target: Target, namespace: str) -> Path:
    """Write objects, events and logs for the analysis of a failure into a folder, and return it."""
    folder = cache() / "logs" / "failure"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    looks = {
        "objects.txt": ("get", "ultramarine,jobs,pods,deployments,services,pvc", "-o", "wide"),
        "describe.txt": ("describe", "tj,mv,oe,env,jobs,pods"),
        "events.txt": ("get", "events", "--sort-by=.lastTimestamp"),
        "operator.log": ("logs", "deployment/ultramarine-operator", "--tail=2000"),
        "pods.log": ("logs", "-l", "ultramarine.dev/kind", "--all-containers", "--prefix", "--tail=500"),
    }
    for name, words in looks.items():
        argv = [*target.kubectl, "-n", namespace, *words]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        (folder / name).write_text(done.stdout + done.stderr)
    if target.where == "embedded":
        (folder / "components").symlink_to(State("full").logs)
    return folder


def uninstall_kind() -> bool:
    """Delete the launcher's kind cluster; return True if it existed."""
    if (
        not images.docker()
        or shutil.which("kind") is None
        or KIND_CLUSTER not in run("kind", "get", "clusters").split()
    ):
        return False
    run("kind", "delete", "cluster", "--name", KIND_CLUSTER)
    return True
