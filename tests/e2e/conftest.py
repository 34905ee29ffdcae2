"""The platform as people install it: the chart on the embedded cluster, in a namespace that enforces `restricted`."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from api.bare import RESOURCES, policies
from ultramarine.kube.client import Cluster
from ultramarine_cluster import cluster, target
from ultramarine_cluster.paths import REPOSITORY
from ultramarine_operator.settings import Settings, parse

NAMESPACE = "ultramarine-e2e"
HERE = Path(__file__).parent
CRDS = REPOSITORY / "charts" / "ultramarine" / "files" / "crds.yaml"
PEOPLE = CRDS.parent / "people.yaml"
OURS = ("sched", "aml", "plr", "pl", "sw", "tj", "oe", "env", "dset", "dsv", "mv", "mdl")
# The files that take longest: they begin first, so that no worker waits for another one in the end.
SLOWEST = (
    "tutorials", "sdk", "command_data", "training_life", "command_endpoints", "lineage", "pipelines", "serving",
    "gateway", "container_traffic", "rollout", "newcomer", "compile", "failures", "sources", "pool",
)  # fmt: skip
# A test's own limit, with its fixtures, which may build images: each wait in it has a shorter one.
SECONDS = 1800
SHORT = {"hpa": "horizontalpodautoscaler", "pdb": "poddisruptionbudget"}
Manifest = dict[str, Any]
# When the suite began that several runs of pytest make up; `make e2e` sets it.
BEGAN = "ULTRAMARINE_E2E_BEGAN"
began = pytest.StashKey[datetime]()


class Platform:
    """kubectl, the bucket and the endpoints, in the words of the tests."""

    def __init__(self, to: target.Target, namespace: str) -> None:
        self.target = to
        self.namespace = namespace
        own = to.where == "embedded"
        kubeconfig = to.kubectl[to.kubectl.index("--kubeconfig") + 1] if own else ""
        # Without a process for each look: those took most of two cores while files ran side by side.
        self._cluster = Cluster.connect(namespace=namespace, kubeconfig=kubeconfig) if own else None

    def kubectl(self, *words: str, input: str | None = None) -> str:
        """Run kubectl in the platform's namespace; a failure shows what it said."""
        argv = [*self.target.kubectl, "-n", self.namespace, *words]
        done = subprocess.run(argv, input=input, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
        return done.stdout

    def apply(self, *manifests: Manifest) -> None:
        """Apply manifests of ours; the API version may be left out."""
        whole = [{"apiVersion": "ultramarine.dev/v1alpha1", **manifest} for manifest in manifests]
        self.kubectl("apply", "-f", "-", input=yaml.safe_dump_all(whole))

    @property
    def settings(self) -> Settings:
        """Settings of the operator."""
        template = self.get("deployment", "ultramarine-operator")["spec"]["template"]
        return parse(template["metadata"]["annotations"]["ultramarine.dev/settings"])

    def get(self, kind: str, name: str = "", *words: str) -> Any:
        """One object, or with no name the items of a list, by kubectl's words `-l` and `--field-selector`."""
        resource = RESOURCES.get(SHORT.get(kind, kind))
        if self._cluster is not None and resource is not None:
            return self._cluster.get(resource, name) if name else self._cluster.list(resource, *_selectors(words))
        document = json.loads(self.kubectl("get", kind, *([name] if name else []), *words, "-o", "json"))
        return document if name else document["items"]

    def status(self, kind: str, name: str) -> Manifest:
        """An object's status."""
        return self.get(kind, name).get("status") or {}

    def wait(self, kind: str, name: str, until: Callable[[Manifest], Any], seconds: float = 240) -> Manifest:
        """Wait until `until` holds for the object's status, and return that; fail with the last one."""
        end = time.monotonic() + seconds
        status: Manifest = {}
        while time.monotonic() < end:
            status = self.status(kind, name)
            if until(status):
                return status
            time.sleep(0.3)
        pytest.fail(f"{kind} {name} not so after {seconds:.0f} s: {json.dumps(status, indent=1)}")

    def ended(self, name: str, seconds: float = 240) -> Manifest:
        """Wait for a TrainingJob's end."""
        return self.wait("tj", name, lambda s: s.get("state") in ("Succeeded", "Failed"), seconds)

    def ready(self, name: str, version: str, seconds: float = 240) -> Manifest:
        """Wait until an endpoint serves that version, and that alone."""

        def serves(status: Manifest) -> bool:
            return status.get("modelVersion") == version and not condition(status, "Reconciling")

        return self.wait("oe", name, serves, seconds)

    def events(self, name: str, *reasons: str, seconds: float = 60) -> list[Manifest]:
        """Wait until there are events about `name` with all these reasons, and return all about it.

        An event is written after the status that it is about.
        """
        end = time.monotonic() + seconds
        while True:
            found: list[Manifest] = self.get("event", "", "--field-selector", f"involvedObject.name={name}")
            missing = set(reasons) - {event["reason"] for event in found}
            if not missing:
                return found
            if time.monotonic() > end:
                pytest.fail(f"no event about {name} has {missing}: {[event['reason'] for event in found]}")
            time.sleep(0.3)

    def settled(self, name: str, traffic: dict[str, int] | None = None, seconds: float = 240) -> Manifest:
        """Wait until an endpoint is as its newest spec says, and, where they are given, answers in these shares."""
        generation = self.get("oe", name)["metadata"]["generation"]

        def is_so(status: Manifest) -> bool:
            shared = traffic is None or status.get("traffic") == traffic
            return shared and status.get("observedGeneration") == generation and not condition(status, "Reconciling")

        return self.wait("oe", name, is_so, seconds)

    def emptied(self, name: str, seconds: float = 180) -> None:
        """Wait until no pod of an endpoint is on its way out: old pods go on for ten seconds, and end then."""
        end = time.monotonic() + seconds
        while any(pod["metadata"].get("deletionTimestamp") for pod in self.pods_of("OnlineEndpoint", name)):
            if time.monotonic() > end:
                pytest.fail(f"old pods of {name} are still there after {seconds:.0f} s")
            time.sleep(0.3)

    def pods_of(self, kind: str, name: str) -> list[Manifest]:
        """The pods of an object of ours."""
        labels = f"ultramarine.dev/kind={kind},ultramarine.dev/name={name}"
        found: list[Manifest] = self.get("pod", "", "-l", labels)
        return found

    def delete(self, kind: str, *names: str) -> None:
        """Delete objects, and wait until they are gone."""
        self.kubectl("delete", kind, *names, "--ignore-not-found", "--wait=true", "--timeout=240s")

    def secret(self, name: str) -> dict[str, str]:
        """A Secret's values."""
        return self.target.secret(self.namespace, name)

    def put(self, name: str, content: bytes) -> str:
        """Put an object into the bucket, and return its URI."""
        with self.target.bucket(self.namespace) as storage:
            storage.put_object(Bucket="ultramarine", Key=f"{self.namespace}/tests/{name}", Body=content)
        return f"s3://ultramarine/{self.namespace}/tests/{name}"

    @contextmanager
    def client(self, endpoint: str, key: str | None = None) -> Iterator[httpx.Client]:
        """An HTTP client for an endpoint, with its primary key unless another is given."""
        chosen = self.secret(f"{endpoint}-keys")["primary"] if key is None else key
        with (
            self.target.reach(self.namespace, endpoint, 80) as url,
            httpx.Client(base_url=url, headers={"Authorization": f"Bearer {chosen}"}, timeout=60) as client,
        ):
            yield client

    @contextmanager
    def by_gateway(self, port: int) -> Iterator[int]:
        """Yield a port of this machine that leads to a port of the namespace's gateway."""
        found = self.kubectl("get", "pods", "-l", "app.kubernetes.io/component=gateway", "-o", "json")
        name, *_ = (
            pod["metadata"]["name"]
            for pod in json.loads(found)["items"]
            if not pod["metadata"].get("deletionTimestamp")
        )
        with self.target.forward(self.namespace, f"pod/{name}", port) as local:
            yield local

    def kill_operator(self) -> None:
        """End the operator's pod at once, as a dying node would: no signal to prepare for, no Lease given back."""
        pods = self.get("pod", "", "-l", "app.kubernetes.io/component=operator")
        for pod in pods:
            words = (pod["metadata"]["name"], "--grace-period=0", "--force", "--wait=false", "--ignore-not-found")
            self.kubectl("delete", "pod", *words)


def _selectors(words: tuple[str, ...]) -> tuple[str, str]:
    """Return the selectors of labels and of fields among words of kubectl."""
    pairs = [part for word in words for part in word.split("=", 1 if word.startswith("--") else 0)]
    selectors = dict(zip(pairs[::2], pairs[1::2], strict=True))
    assert selectors.keys() <= {"-l", "--field-selector"}
    return selectors.get("-l", ""), selectors.get("--field-selector", "")


def condition(status: Manifest, type: str) -> Manifest:
    """The condition of that type, or an empty one."""
    return next((c for c in status.get("conditions") or [] if c["type"] == type), {})


def pytest_configure(config: pytest.Config) -> None:
    """Remember when the suite began: the audit log is older."""
    told = os.environ.get(BEGAN)
    config.stash[began] = datetime.fromisoformat(told) if told else datetime.now(UTC)
    config.addinivalue_line("markers", "whole_suite: judges what all end-to-end tests together did")


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Iterator[None]:
    """Put the judgement on the rights last, and the half of it that needs the whole suite only where that is run."""
    found = len(items)
    yield
    here = [item for item in items if item.path.parent == HERE]
    for item in here:
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(SECONDS))
    files = {item.path for item in here}
    part = len(items) < found or any("::" in word for word in config.args) or files != set(HERE.glob("test_*.py"))
    last = [item for item in here if item.path.name == "test_rights.py"]
    spared = [item for item in last if part and BEGAN not in os.environ and item.get_closest_marker("whole_suite")]
    # Workers take the files in the order of the list.
    places = {f"test_{name}": place for place, name in enumerate(SLOWEST)}
    rest = sorted((item for item in items if item not in last), key=lambda i: places.get(i.path.stem, len(places)))
    items[:] = rest + [item for item in last if item not in spared]
    if spared:
        config.hook.pytest_deselected(items=spared)
        names = ", ".join(item.name for item in spared)
        config.get_terminal_writer().line(f"left out, since only a part of the end-to-end suite runs: {names}")


@pytest.fixture(scope="session")
def embedded() -> target.Target:
    """The embedded cluster."""
    return target.embedded(cluster.up())


def restricted(to: target.Target, namespace: str) -> None:
    """Make a namespace that enforces Pod Security `restricted`."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": labels}}
    to.run("apply", "-f", "-", input=yaml.safe_dump(manifest))


@contextmanager
def first(folder: Path, name: str) -> Iterator[bool]:
    """True for the first worker of a run that comes here; the others wait until it is done."""
    path = folder / name
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield path.stat().st_size == 0
        file.write("done")


def apply_as_helm(to: target.Target, text: str) -> None:
    """Apply manifests as Helm's own writes: a release on this cluster may hold them, and must be able to upgrade them.

    What it has marked them with stays.
    """
    manifests = [manifest for manifest in yaml.load_all(text, Loader=yaml.CSafeLoader) if manifest]
    for manifest in manifests:
        meta = manifest["metadata"]
        live = to.run("get", manifest["kind"], meta["name"], "--ignore-not-found", "-o", "json").strip()
        for field in ("labels", "annotations"):
            meta[field] = {
                **((json.loads(live)["metadata"].get(field) or {}) if live else {}),
                **(meta.get(field) or {}),
            }
    as_helm = ("--server-side", "--force-conflicts", "--field-manager=helm")
    to.run("apply", *as_helm, "-f", "-", input="\n---\n".join(map(json.dumps, manifests)))


@pytest.fixture(scope="session")
def platform(embedded: target.Target, tmp_path_factory: pytest.TempPathFactory, testrun_uid: str) -> Platform:
    """The chart, installed once a run by the code that people's `make demo` uses, under exactly its own Role."""
    made = Platform(embedded, NAMESPACE)
    with first(tmp_path_factory.getbasetemp().parent, f"platform-{testrun_uid}") as mine:
        if mine:
            restricted(embedded, NAMESPACE)
            for name in (CRDS, PEOPLE):
                apply_as_helm(embedded, name.read_text())
            apply_as_helm(embedded, policies(NAMESPACE))
            target.install(embedded, NAMESPACE, "crds.install=false")
            for dataset in made.get("dset"):  # also one whose readers the last operator did not see end
                name = dataset["metadata"]["name"]
                made.kubectl("annotate", "dset", name, "ultramarine.dev/allow-deletion=true", "--overwrite")
            for kind in OURS:
                made.kubectl("delete", kind, "--all", "--wait=true")
    return made
