"""Lineage: what objects tell, and the walk from data to endpoints and back."""

from __future__ import annotations

import pytest
from builders import ours
from ultramarine.lineage import Lineage, as_text
from ultramarine_contract.lineage import Graph, facts

DIGEST = "sha256:" + "a" * 64
END = "2030-01-01T12:00:00Z"
DATA = "s3://lake/team-a/raw.csv"
MODEL = "s3://lake/team-a/trainingjobs/churn/uid/model/aaaaaaaaaaaaaaaa/"


def job():
    """A TrainingJob that has ended."""
    git = {"url": "https://git.example.com/churn.git"}
    spec = {
        "source": {"git": git},
        "command": ["python", "train.py"],
        "parameters": {"rate": "0.1"},
        "inputs": {"table": {"uri": DATA}},
        "outputs": {"model": {"registerAs": "churn"}},
    }
    status = {
        "state": "Succeeded",
        "completionTime": END,
        "requestedBy": "ada",
        "inputs": {"table": {"digest": DIGEST, "bytes": 7}},
        "outputs": {"model": {"uri": MODEL, "digest": DIGEST}},
        "metrics": {"latest": {"auc": 0.9}},
        "provenance": {"imageDigest": f"registry/trainer@{DIGEST}", "gitCommit": "c0ffee", "environmentUri": ""},
    }
    return ours("TrainingJob", "churn", spec, status)


def version(number=8):
    spec = {"model": "churn", "version": str(number), "uri": MODEL, "digest": DIGEST}
    spec["lineage"] = {"trainingJob": "churn", "gitCommit": "c0ffee"}
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": END}
    return ours("ModelVersion", f"churn-{number}", spec, {"conditions": [ready]})


def model():
    return ours("Model", "churn", {"aliases": {"champion": "8"}}, {"versions": 1})


def endpoint():
    deployment = {"name": "blue", "modelVersion": "churn-8", "readyReplicas": 1}
    rollout = {"phase": "Promoted", "identity": "abc", "message": "all gates passed"}
    return ours("OnlineEndpoint", "churn", {}, {"deployments": [deployment], "rollout": rollout})


@pytest.fixture
def graph():
    return Graph(fact for manifest in (job(), version(), model(), endpoint()) for fact in facts(manifest))


def steps(some):
    return [(fact.kind, fact.slot) for fact in some]


def test_a_run_tells_what_it_used_and_made():
    """The end of a job names image, code, data with their digests, its outputs, the user, and the metrics."""
    (end,) = facts(job())

    used = {part.name: (part.uri, part.digest) for part in end.used}
    assert used == {
        "image": ("registry/trainer", DIGEST),
        "code": ("git+https://git.example.com/churn.git@c0ffee", ""),
        "table": (DATA, DIGEST),
    }
    assert [part.uri for part in end.made] == ["TrainingJob/churn", MODEL]
    assert (end.value, end.by, end.details["metrics"], end.details["parameters"]) == (
        "Succeeded", "ada", {"auc": 0.9}, {"rate": "0.1"}
    )  # fmt: skip


def test_a_version_of_a_dataset_leads_to_endpoints():
    """A run that was pinned to a version of a Dataset used that version, whatever the reference in its spec."""
    manifest = job()
    manifest["spec"]["inputs"] = {"table": {"dataset": "raw@latest"}}
    manifest["status"]["datasets"] = {"table": {"version": "raw-3", "uri": DATA, "digest": DIGEST}}
    graph = Graph(fact for some in (manifest, version(), model(), endpoint()) for fact in facts(some))

    assert [fact.kind for fact in graph.consequences("DatasetVersion/raw-3")] == [
        "TrainingJob",
        "ModelVersion",
        "Model",
        "OnlineEndpoint",
    ]


def test_a_run_tells_who_started_it():
    """A run of a Schedule, of a sweep or of a pipeline leads to that object."""
    owner = {"apiVersion": "ultramarine.dev/v1alpha1", "kind": "Schedule", "name": "nightly", "controller": True}
    manifest = job()
    manifest["metadata"]["ownerReferences"] = [owner]

    assert ("Schedule/nightly", "started by") in [(part.uri, part.name) for part in facts(manifest)[0].used]


@pytest.mark.parametrize("state", ["", "Pending", "Running", "Suspended"])
def test_a_run_that_goes_on_tells_nothing(state):
    """Only the end of a run is worth a record."""
    manifest = job()
    manifest["status"]["state"] = state

    assert facts(manifest) == []


def test_a_version_leads_back_to_its_data(graph):
    """The origins of a version are its registration and the run, with the data that the run read."""
    origins = graph.origins("ModelVersion/churn-8")

    assert steps(origins) == [("ModelVersion", "registration"), ("TrainingJob", "end")]
    assert DATA in [part.uri for part in origins[-1].used]


def test_data_leads_to_models_and_endpoints(graph):
    """The consequences of a file are the run that read it, the version, the alias, and the endpoint that serves it."""
    assert steps(graph.consequences(DATA)) == [
        ("TrainingJob", "end"),
        ("ModelVersion", "registration"),
        ("Model", "alias/champion"),
        ("OnlineEndpoint", "deployment/blue"),
    ]
    assert graph.consequences("s3://lake/team-a/other.csv") == []


def test_circles_end():
    """A file that a run reads and writes does not make the walk endless."""
    manifest = job()
    manifest["status"]["outputs"]["model"]["uri"] = DATA

    assert steps(Graph(facts(manifest)).origins(DATA)) == [("TrainingJob", "end")]


def test_the_tree_shows_both_directions(graph):
    """Each line is a fact with time and user, or a part with the beginning of its digest."""
    text = Lineage("ModelVersion/churn-8", graph, "team-a").tree()

    assert text.splitlines()[:5] == [
        "ModelVersion/churn-8",
        "├─ comes from",
        f"│  └─ ModelVersion/churn-8 Ready {END}",
        "│     ├─ TrainingJob/churn",
        f"│     │  └─ TrainingJob/churn Succeeded {END} by ada",
    ]
    assert f"table: {DATA}  {DIGEST[:19]}" in text
    assert "   └─ OnlineEndpoint/churn deployment/blue churn-8" in text


def test_a_flowchart_leads_from_left_to_right(graph):
    """The Mermaid text has a node for each part and fact once, and an edge for each use."""
    text = as_text(Lineage("ModelVersion/churn-8", graph, "team-a"), "mermaid")

    assert text.startswith("flowchart LR\n")
    assert text.count(f'["{DATA}"]') == 1
    nodes = {line.split("[")[0].split("(")[0].strip() for line in text.splitlines() if '"' in line}
    edges = [line.split(" --> ") for line in text.splitlines() if "-->" in line]
    assert {end.strip() for edge in edges for end in edge} == nodes


def test_events_are_openlineage(graph):
    """Each fact is a run event with inputs, outputs and a UUID, files by bucket and key."""
    events = Lineage("ModelVersion/churn-8", graph, "team-a").events()

    run = next(event for event in events if event["job"]["name"] == "TrainingJob/churn/end")
    assert (run["eventType"], run["eventTime"], run["job"]["namespace"]) == ("COMPLETE", END, "ultramarine://team-a")
    assert {"namespace": "s3://lake", "name": "team-a/raw.csv"} in run["inputs"]
    assert len({event["run"]["runId"] for event in events}) == len(events)
