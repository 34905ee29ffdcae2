"""Record of a job in MLflow, as the operator requests it of the trainer and reports it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from builders import NOW, PLATFORM, ended_container, job, pod, read, seen, training_job
from msgspec import structs
from ultramarine.resources.base import MlflowStatus
from ultramarine_contract import common as contract
from ultramarine_contract.common import OutputRecord
from ultramarine_contract.meta import Manifest
from ultramarine_contract.training_records import Progress, TerminationRecord, TrainingContext
from ultramarine_operator.kinds.trainingjob.manifests import MAX_PARAMETERS, pod_spec
from ultramarine_operator.kinds.trainingjob.plan import plan
from ultramarine_operator.kinds.trainingjob.registration import to_register
from ultramarine_operator.shared.plan import Obj, Platform, Seen

URI = "http://ultramarine-mlflow.platform.svc:5000"
RECORDED = replace(PLATFORM, mlflow_uri=URI)
RUN, OTHER = "a" * 32, "b" * 32


def context(churn: Obj, platform=RECORDED) -> tuple[str, TrainingContext]:
    """The trainer's context, as it is written and as it is read."""
    (text,) = (
        variable["value"]
        for variable in pod_spec(churn, platform)["containers"][0]["env"]
        if variable["name"] == contract.ENV_CONTEXT
    )
    return text, TrainingContext.from_json(text)


def watched(*children: Manifest, progress: Progress | None = None) -> Seen:
    """Return the observations on a platform with MLflow."""
    return replace(seen(*children), platform=RECORDED, report=progress)


def test_the_context_names_the_server_the_job_and_its_parameters():
    """Tracking URI, the object's own uid and spec.parameters."""
    _, got = context(training_job(parameters={"lr": "0.1"}))

    assert (got.mlflow, got.uid, got.parameters) == (URI, "TrainingJob-churn-uid", {"lr": "0.1"})


def test_without_mlflow_the_context_has_no_word_of_it():
    """A platform without a tracking server names none."""
    text, _ = context(training_job(), PLATFORM)
    assert "mlflow" not in text


def test_the_pod_has_the_namespaces_account_if_it_records():
    """By references to its Secret, which may be missing; what is not recorded by its own pod has none."""

    def account(churn: Obj, platform: Platform) -> list[Manifest]:
        env = pod_spec(churn, platform)["containers"][0]["env"]
        return [variable for variable in env if variable["name"].startswith(contract.MLFLOW_PREFIX + "MLFLOW")]

    platform = replace(RECORDED, mlflow_secret="tracking")
    assert account(training_job(), platform) == [
        {
            "name": f"ULTRAMARINE_{key}",
            "valueFrom": {"secretKeyRef": {"name": "tracking", "key": key, "optional": True}},
        }
        for key in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
    ]
    assert account(training_job(), replace(platform, mlflow_uri="")) == []


def test_a_version_names_the_run_that_records_its_training():
    """It is part of the lineage, if the pod told one."""
    churn = training_job(outputs={"model": {"registerAs": "churn"}})
    record = TerminationRecord(outputs={"model": OutputRecord("s3://lake/m/", "sha256:0", 1)}, mlflow_run=RUN)

    def lineage(record: TerminationRecord) -> Manifest:
        results: Manifest = to_register(churn, record, watched())[-1]["spec"]["lineage"]
        return results

    assert lineage(record)["mlflow"] == {"runId": RUN, "uri": f"{URI}/#/runs/{RUN}"}
    assert "mlflow" not in lineage(structs.replace(record, mlflow_run=""))


def test_an_older_trainer_leaves_undone_what_it_does_not_know():
    """Other than of its task: a context with a newer field, or one that is none, keeps no job from training."""
    assert TrainingContext.from_json('{"job": "a/b", "teleport": true}').job == "a/b"
    with pytest.raises(ValueError, match="not the context of an attempt"):
        TrainingContext.from_json("[]")


def test_as_many_parameters_as_there_is_room_for():
    """Long values are cut, and the variable stays below what Linux takes, in any alphabet."""
    many = {f"p{number:03}": "\u6e38" * 4096 for number in range(128)}
    text, got = context(training_job(parameters=many))

    assert 0 < len(got.parameters) < 128
    assert {len(value) for value in got.parameters.values()} == {500}
    assert len(text) < MAX_PARAMETERS + 2000


def test_a_parameter_arrives_as_it_was_written():
    """Kubernetes fills in $(NAME) in a variable's value, and makes $ of $$; there is none in ours."""
    text, got = context(training_job(parameters={"pattern": "^$$(HOME)$(ULTRAMARINE_POD)$"}))

    assert "$" not in text
    assert got.parameters == {"pattern": "^$$(HOME)$(ULTRAMARINE_POD)$"}


def test_the_status_names_the_run_that_a_pod_has_posted():
    """While it runs, by the pod's own progress."""
    churn = training_job()
    got = plan(churn, watched(job(churn, active=1), pod(churn), progress=Progress(mlflow_run=RUN)), NOW)

    assert got.status["mlflow"] == {"runId": RUN, "uri": f"{URI}/#/runs/{RUN}"}
    MlflowStatus.model_validate(got.status["mlflow"])


def test_the_status_names_the_run_of_an_ended_pod():
    """By its last words, also where nobody could post; and it stays when the pod is gone."""
    churn = training_job()
    reported = TerminationRecord(reason="CommandFailed", message="no", mlflow_run=RUN).to_json()
    ended = pod(churn, phase="Failed", **ended_container(3, message=reported))
    got = plan(churn, watched(job(churn, "Failed", "BackoffLimitExceeded"), ended), NOW)
    assert got.status["mlflow"]["runId"] == RUN

    later = read({**churn.manifest, "status": got.status})
    assert plan(later, watched(job(churn, "Failed", "BackoffLimitExceeded")), NOW).status["mlflow"]["runId"] == RUN


@pytest.mark.parametrize("reported", ["", "../../etc", "a" * 65, "\u0661" * 32, "a b"])
def test_what_is_no_runs_id_is_not_believed(reported):
    """The command can post too: only what can be an id gets into the status."""
    churn = training_job()
    got = plan(churn, watched(job(churn, active=1), pod(churn), progress=Progress(mlflow_run=reported)), NOW)

    assert "mlflow" not in got.status


def test_a_run_is_named_only_where_the_platform_has_mlflow():
    """Without a tracking server there is nothing that it could be a run of."""
    churn = training_job()
    posted = Progress(mlflow_run=RUN)
    got = plan(churn, replace(watched(job(churn, active=1), pod(churn), progress=posted), platform=PLATFORM), NOW)

    assert "mlflow" not in got.status


@pytest.mark.parametrize("wrong", [7, None, ["a"], {"id": "a"}])
def test_an_id_is_a_text(wrong):
    """Anything else in its place makes it no report and no record."""
    with pytest.raises(ValueError, match="not a progress report"):
        Progress.from_json(json.dumps({"mlflow_run": wrong}).encode())
    with pytest.raises(ValueError, match="not a termination record"):
        TerminationRecord.from_json(json.dumps({"outputs": {}, "reason": "", "mlflow_run": wrong}))


def test_a_record_without_a_run_is_as_it_was():
    """A record without a run is the one that earlier releases read and wrote."""
    assert "mlflow_run" not in TerminationRecord().to_json()
    assert TerminationRecord.from_json(TerminationRecord(mlflow_run=OTHER).to_json()).mlflow_run == OTHER
