"""What kubectl makes of our kinds: explain, columns, short names, waiting."""

from __future__ import annotations

import json

import pytest
from bare import CRDS, Api, documents, schema_of, whole
from ultramarine.resources.base import UNSEEN

NOW = "2030-01-01T12:00:00Z"


def condition(type: str, message: str = "") -> dict[str, str]:
    """A condition that is true."""
    return {"type": type, "status": "True", "reason": "Test", "message": message, "lastTransitionTime": NOW}


# Kind: short name, a whole status, and what `kubectl get` then shows, with and without -o wide.
COLUMNS = {
    "TrainingJob": (
        "tj",
        {
            "observedGeneration": 1,
            "state": "Failed",
            "startTime": NOW,
            "completionTime": NOW,
            "duration": "3m10s",
            "attempts": 2,
            "attemptHistory": [
                {
                    "pod": "churn-0-abcde",
                    "node": 0,
                    "startTime": NOW,
                    "endTime": NOW,
                    "reason": "OOMKilled",
                    "exitCode": 137,
                    "message": "too little memory",
                }
            ],
            "activeSince": NOW,
            "activeSeconds": 190,
            "memory": "2Gi",
            "progress": {"step": 9, "totalSteps": 20, "percent": 45, "etaSeconds": 60},
            "percent": "45%",
            "lastCheckpoint": {"uri": "s3://lake/checkpoints/a/", "time": NOW, "step": 8, "bytes": 1},
            "logs": {"uri": "s3://lake/logs/"},
            "goodput": {"productiveSeconds": 180, "lostSeconds": 10},
            "pod": "churn-0-abcde",
            "outputs": {"model": {"uri": "s3://lake/a/", "digest": "sha256:" + "a" * 64, "bytes": 1}},
            "modelVersion": "churn-1",
            "metrics": {"latest": {"accuracy": 0.97}},
            "score": "accuracy=0.97",
            "failure": {
                "reason": "OOMKilled",
                "pod": "churn-0-abcde",
                "message": "too little memory",
                "exitCode": 137,
                "tail": "Killed",
                "hint": "Set spec.onOutOfMemory.",
            },
            "provenance": {"imageDigest": "sha256:feed", "sourceDigest": "sha256:beef", "gitCommit": "a" * 40},
            "conditions": [condition("Running", "it ran"), condition("Stalled", "too little memory")],
        },
        {
            "STATE": "Failed",
            "PROGRESS": "45%",
            "SCORE": "accuracy=0.97",
            "MODELVERSION": "churn-1",
            "ATTEMPTS": "2",
            "DURATION": "3m10s",
        },
        {"POD": "churn-0-abcde", "MESSAGE": "it ran", "FAILURE": "too little memory"},
    ),
    "Model": (
        "mdl",
        {
            "observedGeneration": 1,
            "versions": 7,
            "latestVersion": "9",
            "latestReadyVersion": "8",
            "aliases": "champion=7",
            "artifacts": [{"version": "7", "uri": "s3://lake/a/", "deleting": True}],
            "conditions": [condition("Ready", "7 versions")],
        },
        {"VERSIONS": "7", "LATEST": "8", "ALIASES": "champion=7", "OWNER": "growth"},
        {"MESSAGE": "7 versions"},
    ),
    "ModelVersion": (
        "mv",
        {
            "observedGeneration": 1,
            "state": "Ready",
            "bytes": 1,
            "score": "accuracy=0.97",
            "compiled": {
                "uri": "s3://lake/compiled/7/",
                "digest": "sha256:" + "c" * 64,
                "bytes": 1,
                "opset": 21,
                "rows": 1000,
                "rowsFrom": "input_example.json",
                "worstRelativeError": 1e-08,
                "labelAgreement": 1.0,
            },
            "conditions": [condition("Ready", "it can be served"), condition("Compiled", "as before")],
        },
        {
            "MODEL": "churn",
            "VERSION": "7",
            "FORMAT": "sklearn",
            "STATE": "Ready",
            "SCORE": "accuracy=0.97",
            "TRAININGJOB": "churn",
        },
        {"COMPILED": "Test", "SWEEP": "churn", "URI": "s3://lake/churn/7/", "MESSAGE": "it can be served"},
    ),
    "OnlineEndpoint": (
        "oe",
        {
            "observedGeneration": 1,
            "url": "http://churn.team-a.svc",
            "keysSecret": "churn-keys",
            "traffic": {"blue": 100},
            "modelVersion": "churn-7",
            "replicas": "2/3",
            "deployments": [
                {
                    "name": "blue",
                    "modelVersion": "churn-7",
                    "readyReplicas": 2,
                    "state": "Ready",
                    "message": "",
                    "autoscale": {"replicas": 2, "since": "2030-01-01T12:00:00Z", "most": 1},
                }
            ],
            "gatewayPort": 10_000,
            "signatures": {
                "versions": ["churn-7"],
                "before": ["churn-6"],
                "known": [
                    {
                        "version": "churn-7",
                        "inputs": [{"name": "x", "datatype": "FP64", "shape": [-1, 2], "features": ["age", "plan"]}],
                    }
                ],
            },
            "rollout": {
                "phase": "Progressing",
                "reason": "InsufficientData",
                "message": "green at 10 %, step 1 of 3: too few requests yet to assess it",
                "identity": "0123456789abcdef",
                "step": 1,
                "weight": 10,
                "since": NOW,
                "failingSince": NOW,
                "checked": NOW,
                "evidence": [
                    {
                        "gate": "errorRateIncrease",
                        "verdict": "InsufficientData",
                        "message": "5xx: 0 of 9 against 0 of 81",
                    }
                ],
                "champion": {"requests": 81, "errors": 0, "latency": "0 40 81"},
                "base": [
                    {"pod": "gateway-a", "deployment": "blue", "requests": 9, "errors": 1, "latency": "0 4 9"},
                    {"pod": "gateway-a", "deployment": "green", "compared": 9, "agreed": 8, "unlike": 1},
                ],
            },
            "conditions": [
                condition("Ready", "churn-7 answers"),
                condition("SignatureChanged", "churn-7 refuses requests that churn-6 takes"),
                condition("Stalled", "green has lost"),
            ],
        },
        {
            "READY": "True",
            "MODELVERSION": "churn-7",
            "REPLICAS": "2/3",
            "URL": "http://churn.team-a.svc",
            "WARNING": "Test",
        },
        {"ROLLOUT": "Progressing", "KEYS": "churn-keys", "MESSAGE": "churn-7 answers", "FAILURE": "green has lost"},
    ),
    "Sweep": (
        "sw",
        {
            "observedGeneration": 1,
            "state": "Failed",
            "startTime": NOW,
            "completionTime": NOW,
            "duration": "3m10s",
            "trials": {"running": 0, "succeeded": 7, "stopped": 3, "failed": 2},
            "progress": "12/200",
            "best": [
                {
                    "trial": 3,
                    "values": {"loss": 0.25},
                    "params": {"lr": 0.01, "booster": "dart", "deep": True},
                    "outputs": {"model": "s3://lake/team-a/sweeps/churn/0a-1b/trials/3/model/0123/"},
                    "modelVersion": "churn-1",
                }
            ],
            "bestValue": "0.25",
            "modelVersion": "churn-1",
            "journal": {"uri": "s3://lake/team-a/sweeps/churn/0a-1b/journal/"},
            "report": {"uri": "s3://lake/team-a/sweeps/churn/0a-1b/report.html"},
            "budgetUsed": {"cpuHours": 1.5, "gpuHours": 0.25},
            "warmStart": ["s3://lake/team-a/sweeps/older/0a-1b/"],
            "failure": {
                "reason": "TooManyFailedTrials",
                "message": "5 trials failed",
                "tail": "Killed",
                "hint": "Look.",
            },
            "conditions": [condition("Running", "it ran"), condition("Stalled", "5 trials failed")],
        },
        {
            "STATE": "Failed",
            "BEST": "0.25",
            "TRIALS": "12/200",
            "STOPPED": "3",
            "FAILED": "2",
            "DURATION": "3m10s",
        },
        {"MODELVERSION": "churn-1", "MESSAGE": "it ran", "FAILURE": "5 trials failed"},
    ),
}


def table(api: Api, *what: str) -> list[dict[str, str]]:
    """The rows that `kubectl get` shows, by their headings."""
    head, *rows = api.run("get", *what).splitlines()
    names = head.split()
    starts = [head.index(f"{name} ") if f"{name} " in head else head.index(name) for name in names]
    ends: list[int | None] = [*starts[1:], None]
    return [
        {name: row[start:end].strip() for name, start, end in zip(names, starts, ends, strict=True)} for row in rows
    ]


@pytest.mark.parametrize("kind", COLUMNS)
def test_a_whole_status_is_taken_and_shown_in_columns(api, kind):
    """What the operator writes through the status subresource is kept whole, and kubectl shows it in the columns."""
    short, status, narrow, wide = COLUMNS[kind]
    manifest = whole(kind)
    api.apply(manifest)
    api.status(short, manifest["metadata"]["name"], status)

    assert api.get(short, manifest["metadata"]["name"])["status"] == status
    (row,) = table(api, short)
    assert row | narrow == row
    assert set(row) == {"NAME", "AGE", *narrow}
    (row,) = table(api, short, "-o", "wide")
    assert row | narrow | wide == row


@pytest.mark.parametrize("kind", COLUMNS)
def test_a_status_cannot_come_in_with_the_spec(api, kind):
    """A status in a manifest of a person is dropped: only the operator tells what is, and it has not looked yet.

    No column READY is blank meanwhile.
    """
    short, status, _, _ = COLUMNS[kind]
    api.apply(whole(kind, {"status": status}))

    (found,) = api.all(kind)
    (row,) = table(api, short)
    unseen = {"conditions": [UNSEEN]} if "READY" in row else {}
    assert found["status"] == {"observedGeneration": -1, **unseen}
    assert row.get("READY", "Unknown") == "Unknown"


def test_the_category_lists_everything(api):
    """`kubectl get ultramarine` shows the objects of all our kinds."""
    api.apply(*(whole(kind) for kind in documents()))

    listed = json.loads(api.run("get", "ultramarine", "-o", "json"))["items"]
    assert {found["kind"] for found in listed} == set(documents())


def test_waiting_for_a_condition_works(api):
    """`kubectl wait --for=condition=Succeeded` ends when the status says so."""
    api.apply(whole("TrainingJob"))
    api.status("tj", "churn", {"observedGeneration": 1, "conditions": [condition("Succeeded")]})

    assert "condition met" in api.run("wait", "--for=condition=Succeeded", "tj/churn", "--timeout=10s")


def described(schema: dict, path: str) -> list[tuple[str, list[str]]]:
    """Every object of a schema that has fields, as kubectl names it, with their names."""
    while "properties" not in schema:
        below = schema.get("items") or schema.get("additionalProperties")
        if not isinstance(below, dict):
            return []
        schema = below
    found = [(path, list(schema["properties"]))]
    for name, child in schema["properties"].items():
        found += described(child, f"{path}.{name}")
    return found


@pytest.mark.parametrize("kind", COLUMNS)
def test_explain_reads_like_documentation(api, kind):
    """`kubectl explain` has a description for every field of spec and status, however deep."""
    root = schema_of(documents()[kind])["properties"]
    name = kind.lower()
    pages = [page for part in ("spec", "status") for page in described(root[part], f"{name}.{part}")]
    assert len(pages) > 2

    for path, fields in pages:
        said = api.run("explain", path)
        assert "<no description>" not in said, f"{path}\n{said}"
        assert "DESCRIPTION:\n    <empty>" not in said, f"{path}\n{said}"
        assert all(f"\n  {field}\t" in said for field in fields), f"{path}\n{said}"


@pytest.mark.parametrize("path", CRDS, ids=lambda path: path.stem)
def test_a_crd_can_be_applied_by_hand(api, path):
    """A CRD fits into the annotation of client-side apply, and applying it again changes nothing."""
    assert len(json.dumps(documents_of(path))) < 262_144

    assert "unchanged" in api.run("apply", "-f", str(path))


def documents_of(path) -> dict:
    """The one CRD in a file."""
    return next(crd for crd in documents().values() if crd["spec"]["names"]["plural"] == path.stem)
