"""Bad input of the command against a real API server: one sentence, the object, the remedy, exit code 1.

Other tests have the rest: full disks, uploads that are cut off and files of 10 GB (tests/unit/test_data.py,
tests/unit/test_uploads.py), YAML errors by line and column (tests/unit/test_files_reading.py), a wrong key and an
endpoint that sleeps (tests/e2e/test_command_endpoints.py).
"""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ultramarine
import yaml
from bare import PLATFORM, Api, whole
from ports import free_port
from ultramarine.errors import NoPlatform
from ultramarine_cluster import pki
from ultramarine_cluster.cluster import Cluster
from ultramarine_contract.meta import API_VERSION, Manifest

COMMAND = Path(sys.executable).parent / "ultramarine"
JOB = {"apiVersion": API_VERSION, "kind": "TrainingJob", "metadata": {"name": "churn"}, "spec": {"command": ["a"]}}
Refused = Callable[..., str]


def named(kind: str, name: str) -> Manifest:
    """Return an object with every field of its kind, under a name."""
    return {**whole(kind), "metadata": {"name": name}}


@pytest.fixture
def refused(bare: Cluster, api: Api, tmp_path: Path) -> Refused:
    """Runs the command, which must fail, and returns its sentence; `change` edits the kubeconfig before."""

    def run(*words: str, change: Callable[[dict[str, dict[str, object]]], object] = lambda entries: None) -> str:
        config = yaml.safe_load(bare.kubeconfig.read_text())
        change({kind: config[f"{kind}s"][0][kind] for kind in ("cluster", "user", "context")})
        (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
        argv = [COMMAND, "--kubeconfig", tmp_path / "kubeconfig", "-n", api.namespace, *words]
        done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 1, done.stdout + done.stderr
        assert done.stderr.startswith("Error: ")
        assert "Traceback" not in done.stderr
        return done.stderr

    (tmp_path / "job.yaml").write_text(yaml.safe_dump(JOB))
    return run


def test_a_cluster_that_does_not_answer(refused: Refused) -> None:
    """The address, the context and the cause."""
    server = f"https://127.0.0.1:{free_port()}"
    err = refused("get", "tj", change=lambda entries: entries["cluster"].update(server=server))

    assert re.fullmatch(
        rf"Error: the cluster at {server} \(context .*\) does not answer: .*refused.*\. Check that it is up and that"
        r" you have a network path to it, or choose another --context\.\n",
        err,
    )


def test_no_cluster(tmp_path: Path) -> None:
    """Where the kubeconfig is looked for, and who has one."""
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([COMMAND, "get"], env=environment, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert re.match(r"Error: no kubeconfig found: .*Set KUBECONFIG to the file that your administrator", done.stderr)


def test_a_wrong_context(refused: Refused) -> None:
    """The contexts that the file has."""
    assert re.search("context 'prod' is not in .*kubeconfig. It has: .+", refused("--context", "prod", "get", "tj"))


def test_an_expired_login(refused: Refused) -> None:
    """The context, and the way to a new login."""

    def token(entries: dict[str, dict[str, object]]) -> None:
        entries["user"].clear()
        entries["user"]["token"] = "expired"

    assert "does not accept your login (context" in (err := refused("get", "tj", change=token))
    assert "Log in again, or ask your administrator for a new kubeconfig." in err


def test_a_missing_right(refused: Refused, bare: Cluster, api: Api, tmp_path: Path) -> None:
    """User, verb, kind and namespace."""
    authority = pki.Authority(bare.state.pki, "ca")
    config = pki.kubeconfig(tmp_path / "of-eve", bare.url, authority, authority.issue("eve", pki.Leaf("eve")))
    user = yaml.safe_load(config.read_text())["users"][0]["user"]
    err = refused("get", "tj", change=lambda entries: entries["user"].update(user))

    what = 'User "eve" cannot list resource "trainingjobs" in API group "ultramarine.dev"'
    assert f'{what} in the namespace "{api.namespace}"' in err
    assert "Ask your administrator for this right" in err


@pytest.mark.parametrize(
    "words", ["submit job.yaml", "run start pipeline.yaml", "run start churn", "run resume old", "schedule trigger s"]
)
def test_a_namespace_that_no_operator_watches(refused: Refused, api: Api, tmp_path: Path, words: str) -> None:
    """Nothing is created there, where it would wait without end."""
    api.apply(named("PipelineRun", "old"), named("Schedule", "s"))
    (tmp_path / "pipeline.yaml").write_text(yaml.safe_dump(named("Pipeline", "churn")))
    err = refused(*words.split())

    assert f"namespace {api.namespace} is not one of Ultramarine's" in err
    assert "Choose another with -n" in err
    assert api.run("get", "tj,sw,pipelines,pipelineruns", "-o", "name").split() == ["pipelinerun.ultramarine.dev/old"]


MISTYPED = [
    "get tj chrun",
    "describe tj chrun",
    "describe chrun",
    "logs chrun",
    "cancel chrun",
    "delete tj chrun",
    "repro chrun",
    "download chrun",
    "sweep show chrun",
    "models show chrun",
    "models promote chrun --alias champion",
    "endpoints invoke chrun --data [1]",
    "endpoints logs chrun",
    "endpoints keys chrun",
    "endpoints traffic chrun blue=100",
    "run show chrun",
    "run cancel chrun",
    "schedule trigger chrun",
    "schedule suspend chrun",
]


@pytest.mark.parametrize("words", MISTYPED)
def test_a_mistyped_name(refused: Refused, api: Api, words: str) -> None:
    """The nearest name of its kind, in one sentence."""
    version = whole("ModelVersion", {"spec": {"model": "churn"}})
    version["metadata"] = {"name": f"churn-{version['spec']['version']}"}
    others = [named(kind, "churns") for kind in ("Sweep", "OnlineEndpoint", "PipelineRun", "Schedule")]
    api.apply(named("TrainingJob", "churn"), *others, version, PLATFORM)
    err = refused(*words.split())

    assert re.search(r"Did you mean (trainingjob/)?churns?\?\n$", err)
    assert len(err.splitlines()) == 1


def test_a_name_that_is_near_no_other(refused: Refused, api: Api) -> None:
    """The names that exist, or the fault of the namespace."""
    assert f"Namespace {api.namespace} is not one of Ultramarine's" in refused("describe", "tj", "x")
    assert "Namespace absent does not exist. Choose another with -n" in refused("describe", "tj", "x", "-n", "absent")
    assert "Namespace absent does not exist." in refused("models", "show", "x", "-n", "absent")

    api.apply(PLATFORM)
    assert refused("describe", "tj", "x").endswith(f"x does not exist. Namespace {api.namespace} has none.\n")
    api.apply(named("TrainingJob", "churn"))
    assert refused("describe", "tj", "x").endswith("x does not exist. The trainingjobs there: churn.\n")


class TestSdk:
    """The SDK in a namespace that no operator watches."""

    @pytest.fixture
    def sdk(self, bare: Cluster, api: Api) -> Iterator[ultramarine.Client]:
        """A client there."""
        with ultramarine.Client(kubeconfig=str(bare.kubeconfig), namespace=api.namespace) as client:
            yield client

    def test_creates_nothing(self, sdk: ultramarine.Client, api: Api) -> None:
        """A submission is refused, until an administrator adds the namespace."""
        with pytest.raises(NoPlatform, match="is not one of Ultramarine's"):
            sdk.submit(JOB)
        with pytest.raises(NoPlatform, match="is not one of Ultramarine's"):
            sdk.datasets._series.register("churn", {"uri": "s3://lake/churn/"})
        assert api.run("get", "tj,datasetversions", "-o", "name") == ""
        sdk.submit(JOB, dry_run=True)

        api.apply(PLATFORM)
        assert sdk.submit(JOB).state == "Pending"

    def test_applies_with_a_warning(self, sdk: ultramarine.Client, api: Api) -> None:
        """The first object of the platform has it; a ConfigMap needs no operator."""
        config_map = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "code"}, "data": {}}
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            sdk.apply(config_map)
        with pytest.warns(UserWarning, match="waits without end: namespace .* is not one of Ultramarine's") as shown:
            sdk.apply(JOB)
        assert [entry.filename for entry in shown] == [__file__]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            sdk.apply(JOB)

    def test_looks_once(self, sdk: ultramarine.Client, api: Api) -> None:
        """A client that has seen the platform does not look again."""
        api.apply(PLATFORM)
        sdk.submit(JOB)
        api.run("delete", "configmap", "ultramarine-platform")

        assert sdk.submit({**JOB, "metadata": {"name": "second"}}).state == "Pending"


def test_an_unknown_field(refused: Refused, tmp_path: Path) -> None:
    """The line, the field, and the nearest one."""
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(JOB | {"spec": {"command": ["a"], "nodez": 2}}))

    err = refused("apply", "job.yaml")
    assert "job.yaml:" in err
    assert "spec.nodez: unknown field; did you mean nodes?" in err


def test_yaml_that_is_none(refused: Refused, tmp_path: Path) -> None:
    """File, line and column."""
    (tmp_path / "job.yaml").write_text("kind: TrainingJob\nspec: {command: [a}\n")

    assert "job.yaml:2:19: " in refused("submit", "job.yaml")


def test_two_objects_of_one_name(refused: Refused, api: Api, tmp_path: Path) -> None:
    """In a file neither is made; in the cluster the first stays."""
    (tmp_path / "two.yaml").write_text(yaml.safe_dump_all([JOB, JOB]))
    assert "stands twice, first at two.yaml:1; rename or remove one of the two" in refused("apply", "two.yaml")
    assert api.run("get", "tj", "-o", "name") == ""

    api.apply(PLATFORM, JOB)
    err = refused("submit", "job.yaml")
    assert "churn already exists. Choose another name, or delete it first." in err


def test_two_runs_of_one_name(refused: Refused, api: Api) -> None:
    """The first run stays as it is, also if the second has other parameters."""
    pipeline, first = named("Pipeline", "churn"), named("PipelineRun", "first")
    api.apply(PLATFORM, pipeline, first)
    before = api.get("plr", "first")["metadata"]["resourceVersion"]
    for words in ((), ("--set", "rate=0.2")):
        err = refused("run", "start", "churn", "--name", "first", *words)
        assert "/first already exists. Choose another name, or delete it first." in err
    assert api.get("plr", "first")["metadata"]["resourceVersion"] == before


def test_a_run_that_could_not_begin_leaves_nothing(refused: Refused, api: Api, tmp_path: Path) -> None:
    """Neither the run nor, of a file, the Pipeline is made."""
    step = {"name": "a", "trainingJob": {"command": ["true"]}}
    spec: Manifest = {"parameters": {"rate": {"type": "number"}}, "steps": [step]}
    churn = {"apiVersion": API_VERSION, "kind": "Pipeline", "metadata": {"name": "churn"}, "spec": spec}
    (tmp_path / "churn.yaml").write_text(yaml.safe_dump(churn))
    api.apply(PLATFORM)
    for pipeline in ("churn.yaml", "churn"):
        err = refused("run", "start", pipeline, "--set", "rate=fast")
        assert err == "Error: parameters.rate: expected number, got string.\n"
        assert api.run("get", "plr,pl", "-o", "name").split() == [] or pipeline == "churn"
        api.apply(churn)
    assert api.run("get", "plr", "-o", "name") == ""
    first = {**named("PipelineRun", "first"), "spec": {"pipeline": "churn", "parameters": {"rate": 0.1}}}
    api.apply(first)
    assert "no step is named 'b' (steps: a)" in refused("run", "resume", "first", "--from", "b")
    assert "parameters.rate: expected number" in refused("run", "resume", "first", "--set", "rate=fast")
    assert api.run("get", "plr", "-o", "name").split() == ["pipelinerun.ultramarine.dev/first"]
