"""Plans of an apply, and new projects."""

from __future__ import annotations

import compileall
import copy
import subprocess
import sys
from decimal import Decimal
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from ultramarine.cli.planning import lines_of
from ultramarine.files.plan import ABSENT, Plan, Pods, plan, stored
from ultramarine.files.projects import TEMPLATES, InvalidProject, make_project, object_name
from ultramarine.files.reading import read
from ultramarine.files.schemas import kinds
from ultramarine.files.validation import validate
from ultramarine_contract.meta import API_VERSION, Manifest
from ultramarine_contract.quantities import quantity
from ultramarine_operator.shared.testing import merged

RESOURCES: Manifest = {"requests": {"cpu": "500m"}, "limits": {"memory": "1Gi", "nvidia.com/gpu": 1}}
SPACE: Manifest = {"lr": {"uniform": {"min": 0, "max": 1}}}


def manifest(kind: str, **spec: Any) -> Manifest:
    """An object of a kind."""
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": "churn"}, "spec": spec}


def job(**spec: Any) -> Manifest:
    """A TrainingJob."""
    return manifest("TrainingJob", command=["a"], resources=RESOURCES, **spec)


def live(applied: Manifest) -> Manifest:
    """An object as the API server stores it, with defaults and a status."""
    spec = stored(kinds()[applied["kind"]], applied)
    return {**copy.deepcopy(applied), "spec": spec, "status": {"observedGeneration": 1}}


def edited(applied: Manifest, patch: Manifest) -> Plan:
    """The plan of applying an object with a patch of its spec."""
    return plan(merged(applied, {"spec": patch}), live(applied))


def test_a_new_object_is_created_with_its_pods() -> None:
    """A new job names its pods and what they reserve: a limit without a request is reserved too."""
    outcome = plan(job(nodes=4, framework="torch"), None)

    requests = {"cpu": "500m", "memory": "1Gi", "nvidia.com/gpu": "1"}
    assert outcome == Plan("create", (), (Pods("node", 4, 4, requests),))
    assert outcome.totals == {"cpu": Decimal(2), "memory": Decimal(4 * 2**30), "nvidia.com/gpu": Decimal(4)}


def test_an_equal_object_is_kept() -> None:
    """Defaults that the API server has filled in are not a change."""
    assert edited(job(), {}).action == "keep"
    assert edited(job(), {"backoffLimit": 3, "nodes": 1}).action == "keep"


def test_a_change_is_named_by_its_field() -> None:
    """Changed, added and removed fields are named at the deepest place, with both values."""
    outcome = edited(job(activeDeadlineSeconds=60), {"backoffLimit": 5, "activeDeadlineSeconds": None})

    assert outcome.action == "change"
    assert {c.path: (c.before, c.after) for c in outcome.changes} == {
        "spec.backoffLimit": (3, 5),
        "spec.activeDeadlineSeconds": (60, ABSENT),
    }


def test_an_immutable_field_needs_a_new_object() -> None:
    """A change of, or within, a field that cannot be changed asks to delete and create again."""
    outcome = edited(job(), {"resources": {"requests": {"cpu": "1"}}, "suspend": True})

    assert outcome.action == "recreate"
    assert {c.path: c.fixed for c in outcome.changes} == {"spec.resources.requests.cpu": True, "spec.suspend": False}
    assert outcome.pods == ()


def test_entries_of_a_list_are_compared_by_their_key() -> None:
    """Deployments are compared by name, wherever they stand."""
    blue, green = ({"name": name, "model": "churn@1", "replicas": 1} for name in ("blue", "green"))
    endpoint = manifest("OnlineEndpoint", deployments=[blue, green], traffic={"blue": 100})
    outcome = edited(endpoint, {"deployments": [green, {**blue, "replicas": 2}]})

    assert [(c.path, c.before, c.after) for c in outcome.changes] == [("spec.deployments.blue.replicas", 1, 2)]
    assert [(pods.what, pods.most) for pods in outcome.pods] == [("deployment green", 1), ("deployment blue", 2)]


def test_a_new_group_is_named_field_by_field() -> None:
    """A deployment or a section that comes or goes is no document in a line."""
    blue, green = ({"name": name, "model": f"churn@{number}"} for number, name in enumerate(("blue", "green"), 1))
    endpoint = manifest("OnlineEndpoint", deployments=[blue], traffic={"blue": 100})
    outcome = edited(endpoint, {"deployments": [blue, {**green, "autoscale": {"maxReplicas": 3}}]})

    changes = {change.path: (change.before, change.after) for change in outcome.changes}
    assert changes["spec.deployments.green.model"] == (ABSENT, "churn@2")
    assert changes["spec.deployments.green.autoscale.maxReplicas"] == (ABSENT, 3)
    assert not any(isinstance(value, dict) for pair in changes.values() for value in pair)


def test_lines_of_a_plan_are_for_reading() -> None:
    """Sizes have a unit, and a text of several lines is not printed."""
    resources = {"requests": {"cpu": "500m", "memory": "1536Mi"}}
    code = {"inline": {"train.py": "a\nb\n"}}
    fields = {"command": ["a"], "nodes": 2, "framework": "none", "resources": resources, "source": code}
    applied = manifest("TrainingJob", **fields)
    assert list(lines_of(plan(applied, None)))[-1] == "at most together: cpu 1, memory 3Gi"

    outcome = edited(applied, {"source": {"inline": {"train.py": "a\nb\nc\n"}}})
    assert next(lines_of(outcome)) == "spec.source.inline[train.py]: text of 2 lines -> text of 3 lines"


@pytest.mark.parametrize(("number", "text"), [("0.5", "0.5"), ("3", "3"), ("2048", "2048"), ("3221225472", "3Gi")])
def test_quantities_have_units(number: str, text: str) -> None:
    """A size in bytes becomes readable; other numbers stay."""
    assert quantity(Decimal(number)) == text


def test_labels_are_set_and_those_of_others_stay() -> None:
    """A label of the manifest is a change; one that only the live object has is not."""
    applied = job()
    present = live(applied)
    present["metadata"]["labels"] = {"owner": "b"}
    applied["metadata"]["labels"] = {"team": "a"}

    assert [(c.path, c.before, c.after) for c in plan(applied, present).changes] == [
        ("metadata.labels.team", ABSENT, "a")
    ]


@pytest.mark.parametrize(
    ("kind", "spec", "counts"),
    [
        ("TrainingJob", {"nodes": 3, "elastic": {"minNodes": 2}}, {"node": (2, 3)}),
        ("TrainingJob", {"suspend": True}, {}),
        ("Sweep", {"limits": {"maxTrials": 4, "parallelTrials": 8}}, {"coordinator": (1, 1), "worker": (4, 4)}),
        (
            "Sweep",
            {"execution": "PodPerTrial", "limits": {"maxTrials": 9, "parallelTrials": 2}},
            {"coordinator": (1, 1), "pod of a trial": (2, 2)},
        ),
        ("Model", {}, {}),
    ],
)
def test_pods_are_counted(kind: str, spec: Manifest, counts: dict[str, tuple[int, int]]) -> None:
    """Nodes, parallel trials and the coordinator are counted; suspended and podless objects have none."""
    if kind == "Sweep":
        spec = {"searchSpace": SPACE, "trialTemplate": {"spec": {"command": ["a"]}}, **spec}
    outcome = plan(manifest(kind, **({"command": ["a"]} if kind == "TrainingJob" else {}), **spec), None)

    assert {pods.what: (pods.least, pods.most) for pods in outcome.pods} == counts


def test_autoscaled_deployments_have_a_range() -> None:
    """A deployment with autoscale runs between its minimum and its maximum of pods."""
    scale = {"minReplicas": 0, "maxReplicas": 5, "metric": "concurrency", "target": 1}
    endpoint = manifest("OnlineEndpoint", deployments=[{"name": "blue", "model": "a@1", "autoscale": scale}])

    assert plan(endpoint, None).pods == (Pods("deployment blue", 0, 5, {}),)


# ---- New projects


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_new_project_is_valid(tmp_path: Path, template: str) -> None:
    """Each template has a manifest without a problem, named like its folder, and a README and an ignore file."""
    folder = tmp_path / "Churn 2"
    names = {file.name for file in make_project(folder, template)}
    reading = read([folder])

    assert names >= {"ultramarine.yaml", "README.md", ".ultramarineignore", "trainingjob.json"}
    assert [document.manifest["metadata"] for document in reading.documents] == [{"generateName": "churn-2-"}]
    assert validate(reading.documents).problems == []
    assert "PROJECT" not in "".join(file.read_text() for file in folder.iterdir() if file.is_file())


@pytest.mark.parametrize(("template", "output"), [("sklearn", "model.skops"), ("xgboost", "model.ubj")])
def test_a_new_project_trains(tmp_path: Path, template: str, output: str) -> None:
    """The script runs as it is with the trainer image's packages, prints its metric, and writes its output."""
    make_project(tmp_path / "a", template)
    done = subprocess.run([sys.executable, "train.py"], cwd=tmp_path / "a", capture_output=True, text=True, check=True)

    assert "accuracy=0.9" in done.stdout
    assert (tmp_path / "a" / "outputs" / "model" / output).stat().st_size > 0


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    """A file that exists stays, and so does the folder around it."""
    (tmp_path / "train.py").write_text("mine")
    with pytest.raises(InvalidProject, match=r"train\.py exists already; name another folder"):
        make_project(tmp_path, "sklearn")

    assert [file.name for file in tmp_path.iterdir()] == ["train.py"]
    with pytest.raises(InvalidProject, match="keras is not a template; choose one of sklearn, torch"):
        make_project(tmp_path / "a", "keras")


@pytest.mark.parametrize(
    ("folder", "name"),
    [("Churn_2 (new)", "churn-2-new"), ("2nd", "project-2nd"), ("é", "project"), ("a" * 60, "a" * 30)],
)
def test_a_folder_gives_the_name(folder: str, name: str) -> None:
    """Any folder's name becomes a name that every kind takes, short enough for a suffix."""
    assert object_name(folder) == name


def test_compiled_templates_are_no_files_of_a_project(tmp_path):
    """pip compiles the scripts of an installed wheel, which leaves folders beside them."""
    template = resources.files("ultramarine.files") / "templates" / "sklearn"
    compileall.compile_file(str(template / "train.py"), quiet=1)

    assert (Path(str(template)) / "__pycache__").is_dir()
    assert {file.name for file in make_project(tmp_path / "churn", "sklearn")} >= {"train.py", "ultramarine.yaml"}
