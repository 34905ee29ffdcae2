"""AutoMLJobs and their children for the tests, and what makes a drawn one valid."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from ultramarine.resources.automl import AutoMLJobSpec
from ultramarine_contract import automl
from ultramarine_contract.automl import AutoMLSummary, LeaderboardRow
from ultramarine_contract.meta import Manifest

from ....shared.conditions import timestamp
from ....shared.plan import Obj, Plan, Platform
from ....shared.questions import ReadText
from ....shared.testing import (
    DIGEST,
    NOW,
    child,
    fit,
    seen,
    stored,
)
from ...trainingjob.testing.samples import WHOLE as WHOLE_JOB
from ...trainingjob.testing.samples import complete_pods
from ..plan import plan

KIND, NAME = "AutoMLJob", "churn"
LEAST: Manifest = {"task": "classification", "data": {"uri": "s3://lake/churn.csv", "target": "churned"}}
STARTED = timestamp(NOW - timedelta(seconds=60))
PREPARED = {"uri": "s3://lake/team-a/trainingjobs/churn-prepare/uid/prepared/aaaa/", "digest": DIGEST}
SUMMARY = AutoMLSummary(
    metric="log_loss",
    goal="minimize",
    best=LeaderboardRow("ensemble", 0.1, 0.01),
    leaderboard=(LeaderboardRow("logistic", 0.11, 0.01, 0.2, 0.5, 0.01, {"algorithm": "logistic", "logistic_C": 1.0}),),
    candidates=12,
    test_score=0.12,
    low=0.1,
    high=0.14,
    baseline=0.69,
    rows=455,
    test_rows=114,
    guardrails=(automl.Guardrail("imbalance", "info", "churned", "a class is rare"),),
)


def job(status: Manifest | None = None, **spec: Any) -> Obj[AutoMLJobSpec]:
    """The AutoMLJob churn as the API server returns it."""
    manifest = stored(KIND, NAME, {**LEAST, **spec}, status)
    return Obj(manifest, AutoMLJobSpec.model_validate(manifest["spec"]))


def job_child(
    owner: Obj[AutoMLJobSpec], suffix: str, state: str, spec: Manifest | None = None, **status: Any
) -> Manifest:
    """A child of that job, in a state."""
    kind = "Sweep" if suffix == "search" else "TrainingJob"
    return child(kind, f"{NAME}-{suffix}", owner, spec or {"command": ["true"]}, {"state": state, **status})


def prepared(owner: Obj[AutoMLJobSpec]) -> Manifest:
    """The first child, which has succeeded a minute after its start."""
    return job_child(owner, "prepare", "Succeeded", startTime=STARTED, outputs={"prepared": PREPARED})


def searched(owner: Obj[AutoMLJobSpec], state: str = "Succeeded") -> Manifest:
    """The Sweep with one trial."""
    params = {"algorithm": "logistic", "logistic_C": 1.0}
    best = [{"trial": 1, "values": {"score": 0.11}, "params": params}]
    return job_child(owner, "search", state, progress="12/200", best=best)


def finished(owner: Obj[AutoMLJobSpec]) -> Manifest:
    """The last child, which has succeeded and registered a version."""
    folder = "s3://lake/team-a/trainingjobs/churn-finish/uid"
    outputs = {
        "model": {"uri": f"{folder}/model/aaaa/", "digest": DIGEST, "modelVersion": "churn-1"},
        "report": {"uri": f"{folder}/report/aaaa/", "digest": DIGEST},
    }
    return job_child(owner, "finish", "Succeeded", outputs=outputs)


def summary_of(last: Manifest) -> ReadText:
    """The question for the summary of the last child."""
    return ReadText(f"{last['status']['outputs']['report']['uri']}summary.json")


# ---- Golden files

WHOLE_SPEC: Manifest = {
    "task": "classification",
    "data": {"dataset": "churn@latest", "target": "churned", "weight": "weight", "group": "customer"},
    "metric": "roc_auc",
    "validation": {"folds": 3},
    "limits": {"timeoutSeconds": 600, "maxTrials": 50, "parallelTrials": 2},
    "algorithms": {"block": ["svm", "knn", "mlp"]},
    "ensemble": {"enabled": False},
    "features": {"drop": ["id"], "types": {"zip": "categorical"}},
    "resources": {"requests": {"cpu": "500m"}, "limits": {"memory": "2Gi"}},
    "outputs": {"model": {"registerAs": "churn"}},
}


def preparing_automl(platform: Platform) -> Plan:
    """A new AutoMLJob, which prepares its table."""
    return plan(job(**WHOLE_SPEC), seen(platform=platform), NOW)


def searching_automl(platform: Platform) -> Plan:
    """An AutoMLJob whose table is prepared, and which begins its search."""
    whole = job(**WHOLE_SPEC)
    return plan(whole, seen(prepared(whole), platform=platform), NOW)


def finishing_automl(platform: Platform) -> Plan:
    """An AutoMLJob whose search has ended, and which begins its last job."""
    whole = job(**WHOLE_SPEC)
    return plan(whole, seen(prepared(whole), searched(whole), platform=platform), NOW)


WHOLE: Manifest = {
    "metadata": {"name": NAME},
    "spec": {
        **WHOLE_SPEC,
        "ensemble": {"enabled": True},
        "data": {**LEAST["data"], "digest": DIGEST, "weight": "weight", "group": "customer"},
        "environment": {"requirements": ["lightgbm==4.6.0"]},
        "podTemplate": WHOLE_JOB["spec"]["podTemplate"],
        "suspend": False,
        "cancel": False,
        "ttlSecondsAfterFinished": 3600,
    },
}
SAMPLES = (preparing_automl, searching_automl, finishing_automl)


def complete(_: Manifest, spec: Manifest) -> None:
    """Make the fields of a drawn spec agree with each other."""
    data = spec["data"]
    if "dataset" in data:
        data.pop("uri", None)
        data.pop("digest", None)
    else:
        data.setdefault("uri", "s3://lake/churn.csv")
    spec["metric"] = "auto"
    spec.pop("algorithms", None)
    fit(spec.get("resources", {}))
    complete_pods(spec)
