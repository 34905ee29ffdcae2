"""Record of a sweep in MLflow, as the operator requests it of the coordinator and reports it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from builders import NOW, PLATFORM, seen, sweep, sweep_job, sweep_pod
from ultramarine.resources.base import MlflowStatus
from ultramarine_contract import common as contract
from ultramarine_contract.meta import ANNOTATION_REQUESTED_BY
from ultramarine_contract.sweep_records import SweepSummary, SweepTask
from ultramarine_operator.kinds.sweep.plan import plan
from ultramarine_operator.shared.plan import Obj, Platform, Seen

URI = "http://ultramarine-mlflow.platform.svc:5000"
RECORDED = replace(PLATFORM, mlflow_uri=URI, knows_requester=True)
RUN, OTHER = "a" * 32, "b" * 32


def reported(hpo: Obj, platform: Platform = RECORDED) -> tuple[str, SweepTask]:
    """The coordinator's task, as it is written and as it is read."""
    jobs = (m for m in plan(hpo, replace(seen(), platform=platform), NOW).apply if m["kind"] == "Job")
    coordinator = next(job for job in jobs if job["metadata"]["name"] == "hpo-coordinator")
    (container,) = coordinator["spec"]["template"]["spec"]["containers"]
    (text,) = (item["value"] for item in container["env"] if item["name"] == contract.ENV_SWEEP)
    return text, SweepTask.from_json(text)


def watched(hpo: Obj, summary: SweepSummary | None = None, platform: Platform = RECORDED) -> Seen:
    """All of a sweep runs, and its coordinator has posted `summary`."""
    children = (sweep_job(hpo, "coordinator", active=1), sweep_pod(hpo, "coordinator"), sweep_job(hpo, "workers"))
    return replace(seen(*children), platform=platform, report=summary)


def test_the_coordinator_is_told_the_server_and_who_runs_what():
    """The tags are those of a TrainingJob's run; a command is the author's, with nothing filled in."""
    hpo = sweep(trialTemplate={"spec": {"command": ["python", "train.py"], "args": ["--lr=$(params.lr)"]}})
    hpo.manifest["metadata"]["annotations"] = {ANNOTATION_REQUESTED_BY: "ada"}
    text, task = reported(hpo)

    assert task.mlflow == URI
    assert task.mlflow_tags == {
        "mlflow.source.type": "JOB",
        "mlflow.source.name": "python train.py --lr=$(params.lr)",
        "mlflow.user": "ada",
    }
    assert "$" not in text


def test_the_coordinator_has_the_namespaces_account():
    """It records for all trials; their own pods have no account."""
    hpo, platform = sweep(), replace(RECORDED, mlflow_secret="tracking")
    jobs = plan(hpo, Seen(platform), NOW).apply
    named = [job["metadata"]["name"] for job in jobs if "'tracking'" in str(job)]
    assert named == ["hpo-coordinator"]


def test_code_from_elsewhere_is_the_source():
    """The repository says more than the command; a long name is cut to what every release takes."""
    git = {"git": {"url": "https://git.example.com/churn.git", "ref": "main"}}
    _, task = reported(sweep(trialTemplate={"spec": {"command": ["a"], "source": git}}))
    assert task.mlflow_tags["mlflow.source.name"] == "https://git.example.com/churn.git"

    _, task = reported(sweep(trialTemplate={"spec": {"command": ["a", "x" * 1000]}}))
    assert len(task.mlflow_tags["mlflow.source.name"]) == 500


def test_without_mlflow_the_coordinator_hears_no_word_of_it():
    """A platform without a tracking server names none, and a coordinator of an earlier release understands its task."""
    text, _ = reported(sweep(), PLATFORM)

    assert "mlflow" not in text


def test_the_status_names_the_run_that_the_coordinator_has_posted():
    """And keeps it when nobody has told a new leader yet."""
    hpo = sweep()
    got = plan(hpo, watched(hpo, SweepSummary(mlflow_run=RUN)), NOW)
    assert got.status["mlflow"] == {"runId": RUN, "uri": f"{URI}/#/runs/{RUN}"}
    MlflowStatus.model_validate(got.status["mlflow"])

    later = sweep(got.status)
    assert plan(later, watched(later), NOW).status["mlflow"]["runId"] == RUN
    assert plan(later, watched(later, SweepSummary(succeeded=1)), NOW).status["mlflow"]["runId"] == RUN
    assert plan(later, watched(later, SweepSummary(mlflow_run=OTHER)), NOW).status["mlflow"]["runId"] == OTHER


@pytest.mark.parametrize("run", ["", "../../etc", "a" * 65, "\u0661" * 32, "a b"])
def test_what_is_no_runs_id_is_not_believed(run):
    """Only what can be an id gets into the status."""
    hpo = sweep()
    assert "mlflow" not in plan(hpo, watched(hpo, SweepSummary(mlflow_run=run)), NOW).status


def test_a_run_is_named_only_where_the_platform_has_mlflow():
    """Without a tracking server there is nothing that it could be a run of."""
    hpo = sweep()
    assert "mlflow" not in plan(hpo, watched(hpo, SweepSummary(mlflow_run=RUN), PLATFORM), NOW).status


@pytest.mark.parametrize("wrong", [7, None, ["a"], {"id": "a"}])
def test_an_id_is_a_text(wrong):
    """Anything else in its place makes it no summary; what an earlier release wrote has none, and is one."""
    with pytest.raises(ValueError, match="not a summary"):
        SweepSummary.from_json(json.dumps({"mlflow_run": wrong}))
    assert SweepSummary.from_json("{}").mlflow_run == ""
