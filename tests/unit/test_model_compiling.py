"""A ModelVersion that is compiled: its Job, its verdict, and what is served."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from builders import DIGEST, NOW, PLATFORM, child, condition, ended_container, endpoint, ours, read, seen, version
from msgspec import structs
from ultramarine_contract import common as contract
from ultramarine_contract.errors import StorageError
from ultramarine_contract.serving_records import ServingTask
from ultramarine_contract.training_records import TerminationRecord
from ultramarine_contract.version_records import CompileRecord, CompileTask
from ultramarine_operator.kinds.model.compiling import ENDED, LOAD_ERRORS
from ultramarine_operator.kinds.model.manifests import compile_job, compile_job_name, compile_task
from ultramarine_operator.kinds.model.plan import plan_version, questions_version
from ultramarine_operator.kinds.onlineendpoint.plan import plan as plan_endpoint
from ultramarine_operator.shared.podspec import DISK
from ultramarine_operator.shared.questions import ArtifactFacts, CheckArtifact, ReadText

ASK = CheckArtifact("s3://lake/churn/1/")
OTHER = "sha256:" + "c" * 64


def one_version(status=None, **compile):
    """ModelVersion churn-1 as it was applied, to be compiled."""
    return read(ours("ModelVersion", "churn-1", {**version(1)["spec"], "compile": {"to": "onnx", **compile}}, status))


def compiling(**compile):
    """It while its Job is under way."""
    status = plan_version(one_version(**compile), seen(answers={ASK: ArtifactFacts(DIGEST, 42)}), NOW).status
    return one_version(status, **compile)


def prefix(of):
    """Return the folder of its result."""
    return compile_task(of, of.spec.compile, PLATFORM).prefix


def result(of):
    """The question for its verdict."""
    return ReadText(prefix(of) + contract.RESULT_NAME)


def good(of, **changes):
    """The verdict of a model that answers as before."""
    record = CompileRecord(f"{prefix(of)}cccc/", OTHER, 900, 21, 1000, "1000 rows", 1e-8, 1.0)
    return structs.replace(record, **changes)


BAD = CompileRecord("", "", 0, 21, 1000, "1000 rows", 0.25, 0.5, "ParityFailed", "half of them differ")


def compile_job_of(of, ended="", ago=60, **status):
    """Its Job, running, or ended by that condition so many seconds ago."""
    since = (NOW - timedelta(seconds=ago)).strftime("%Y-%m-%dT%H:%M:%SZ")
    over = [{"type": ended, "status": "True", "lastTransitionTime": since, **status}] if ended else []
    spec = compile_job(of, of.spec.compile, PLATFORM)["spec"]
    return child("Job", compile_job_name(of), of, spec, {"conditions": over})


def pod_of(of, phase="Running", **status):
    """The pod of its Job."""
    made = child("Pod", "churn-1-compile-abcde", of, {}, {"phase": phase, **status})
    made["metadata"]["ownerReferences"] = [{"uid": f"Job-{compile_job_name(of)}-uid", "controller": True}]
    return made


def wording(of, record):
    """Its pod that has ended with these last words."""
    words = record if isinstance(record, str) else record.to_json().decode()
    return pod_of(of, "Succeeded", **ended_container(0, "Completed", words, "store"))


@pytest.mark.parametrize("spec", [{"compile": {"to": "none"}}, {"format": {"name": "onnx"}}])
def test_a_version_that_is_not_to_be_compiled_says_so(spec):
    """With `to: none`, or of a format that is served as it is, no Job is made, and the version is ready at once."""
    plain = read(ours("ModelVersion", "churn-1", {**version(1)["spec"], **spec}))
    got = plan_version(plain, seen(answers={ASK: ArtifactFacts(DIGEST, 42)}), NOW)

    assert got.apply == ()
    assert (condition(got, "Compiled")["status"], condition(got, "Compiled")["reason"]) == ("False", "NotAsked")
    assert [event.reason for event in got.events] == ["ArtifactFound"]


def test_an_artifact_is_checked_before_it_is_compiled():
    """Nothing is compiled that is not what was registered."""
    asked = one_version()
    assert questions_version(asked, seen()) == (ASK,)
    for answer in (ArtifactFacts(OTHER, 42), StorageError("no", "ObjectNotFound")):
        got = plan_version(asked, seen(answers={ASK: answer}), NOW)
        assert got.apply == ()
        assert condition(got, "Compiled") == {}


def test_a_version_found_right_gets_a_job_and_is_not_ready_yet():
    """It is ready when compiling has ended: an endpoint that follows it does not roll twice."""
    got = plan_version(one_version(), seen(answers={ASK: ArtifactFacts(DIGEST, 42)}), NOW)
    [job] = got.apply

    assert (job["kind"], job["metadata"]["name"]) == ("Job", "churn-1-compile")
    assert (got.status["state"], got.status["bytes"]) == ("Compiling", 42)
    assert condition(got, "Ready")["reason"] == condition(got, "Compiled")["reason"] == "Compiling"
    assert condition(got, "Reconciling")["status"] == "True"
    assert [(event.reason, event.type) for event in got.events] == [("Compiling", "Normal")]


@pytest.mark.attack(
    "model/compile-keys",
    asset="storage keys",
    threat="the model's code reads them while it is compiled",
    control="three containers: the one that loads it has no keys, and the next one stores what it left",
)
def test_the_container_that_loads_the_model_has_no_keys():
    """Of the pod's containers the one that runs what others have made knows neither the storage nor its keys."""
    of = one_version()
    spec = compile_job(of, of.spec.compile, PLATFORM)["spec"]["template"]["spec"]
    fetch, middle = spec["initContainers"]
    [store] = spec["containers"]

    assert [item["command"][1] for item in (fetch, middle, store)] == ["fetch", "compile", "store"]
    assert "envFrom" in fetch
    assert "envFrom" in store
    assert "envFrom" not in middle
    assert [item["name"] for item in middle["env"]] == [contract.ENV_TASK]
    assert CompileTask.from_json(middle["env"][0]["value"]).native.digest == DIGEST
    assert spec["automountServiceAccountToken"] is False


def test_the_place_of_a_result_follows_from_model_and_settings():
    """Equal artifacts with equal settings have one place, other settings another."""
    assert prefix(one_version()) == prefix(one_version())
    assert prefix(one_version()).startswith(f"s3://lake/team-a/compiled/{'a' * 16}-")
    assert prefix(one_version(parity={"rtol": 0.1})) != prefix(one_version())


def test_a_job_that_runs_is_left_alone():
    """While it runs, nothing is written, and nothing is asked."""
    of = compiling()
    there = seen(compile_job_of(of), pod_of(of))
    got = plan_version(of, there, NOW)

    assert questions_version(of, there) == ()
    assert got.apply == ()
    assert "churn-1-compile" in condition(got, "Compiled")["message"]


def test_what_its_pod_waits_for_is_told():
    """A pod that does not start says why in the version's conditions."""
    of = compiling()
    stuck = pod_of(of, "Pending")
    stuck["status"]["containerStatuses"] = [
        {"name": "store", "image": "x:1", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no host"}}}
    ]
    assert "cannot pull image" in condition(plan_version(of, seen(compile_job_of(of), stuck), NOW), "Ready")["message"]


def test_a_good_verdict_makes_it_ready_with_figures():
    """The pod's last words tell where the compiled artifact is, and how far the answers lie apart."""
    of = compiling()
    got = plan_version(of, seen(compile_job_of(of, "Complete"), wording(of, good(of))), NOW)

    assert (got.status["state"], condition(got, "Compiled")["status"]) == ("Ready", "True")
    assert got.status["compiled"] == {
        "uri": f"{prefix(of)}cccc/",
        "digest": OTHER,
        "bytes": 900,
        "opset": 21,
        "rows": 1000,
        "rowsFrom": "1000 rows",
        "worstRelativeError": 1e-8,
        "labelAgreement": 1.0,
    }
    assert [(event.reason, event.type) for event in got.events] == [("ArtifactFound", "Normal"), ("Compiled", "Normal")]


@pytest.mark.parametrize(("on_failure", "state"), [("ServeNative", "Ready"), ("Fail", "Invalid")])
def test_a_parity_that_failed_leaves_the_native_model_or_nothing(on_failure, state):
    """The condition has the verdict's words; onFailure says whether the version can be served all the same."""
    of = compiling(onFailure=on_failure)
    got = plan_version(of, seen(compile_job_of(of, "Complete"), wording(of, BAD)), NOW)

    assert got.status["state"] == state
    assert condition(got, "Compiled")["reason"] == "ParityFailed"
    assert condition(got, "Compiled")["message"].startswith("half of them differ; ")
    assert "uri" not in got.status["compiled"]
    assert got.status["compiled"]["labelAgreement"] == 0.5
    assert (condition(got, "Stalled") != {}) == (state == "Invalid")


@pytest.mark.parametrize("reason", ENDED)
def test_what_has_ended_is_not_judged_again(reason):
    """A version whose Job is long gone keeps its verdict, asks nothing, and makes no Job."""
    of = compiling()
    over = {**of.status, "compiled": {"uri": "s3://lake/x/", "digest": OTHER}}
    word = "True" if reason == "Compiled" else "False"
    ended = [{"type": "Compiled", "status": word, "reason": reason, "message": "m"}]
    of = one_version({**over, "conditions": ended})
    got = plan_version(of, seen(), NOW)

    assert questions_version(of, seen()) == ()
    assert got.apply == ()
    state = {"CodeExecutionRefused": "Refused"}.get(reason, "Invalid" if reason in LOAD_ERRORS else "Ready")
    assert (got.status["state"], got.status["compiled"]) == (state, over["compiled"])
    assert condition(got, "Compiled")["reason"] == reason


def test_a_verdict_is_found_in_the_storage_when_the_pod_is_gone():
    """Without a pod that tells it the verdict is read; without a Job too, and none is made again."""
    of = compiling()
    for there in (seen(), seen(compile_job_of(of, "Complete"))):
        assert questions_version(of, there) == (result(of),)
        answered = replace(there, answers={result(of): good(of).to_json().decode()})
        got = plan_version(of, answered, NOW)
        assert (got.status["state"], got.apply) == ("Ready", ())
        assert condition(got, "Compiled")["status"] == "True"
        # As if the operator had not been there while it was compiled.
        assert "spec.digest" in condition(got, "Ready")["message"]


def test_a_job_that_is_gone_without_a_verdict_is_made_anew():
    """Only what the storage has not is done again; while it does not answer, nothing is."""
    of = compiling()
    missing = plan_version(of, seen(answers={result(of): StorageError("no", "ObjectNotFound")}), NOW)
    away = plan_version(of, seen(answers={result(of): StorageError("away", "Unreachable")}), NOW)

    assert [item["kind"] for item in missing.apply] == ["Job"]
    assert away.apply == ()
    assert away.after is not None
    assert "away" in condition(away, "Compiled")["message"]


def test_last_words_are_awaited_a_moment():
    """Jobs and pods are watched apart: a Job that has just ended is looked at again before the storage counts."""
    of = compiling()
    got = plan_version(of, seen(compile_job_of(of, "Complete", ago=2), pod_of(of)), NOW)
    assert condition(got, "Compiled")["reason"] == "Compiling"
    assert got.after == timedelta(seconds=1)


def test_a_job_that_failed_says_why():
    """The pod's own words are the message, and the native model is served."""
    of = compiling()
    words = TerminationRecord(reason="Unreachable", message="the storage is away").to_json()
    failed = pod_of(of, "Failed", **ended_container(1, "Error", words, "store"))
    got = plan_version(of, seen(compile_job_of(of, "Failed", reason="BackoffLimitExceeded"), failed), NOW)

    assert got.status["state"] == "Ready"
    assert condition(got, "Compiled")["reason"] == "CompileFailed"
    assert "the storage is away" in condition(got, "Compiled")["message"]


def test_a_job_that_waited_too_long_fails():
    """A pod that nobody takes is not waited for for ever."""
    of = compiling()
    got = plan_version(of, seen(compile_job_of(of, "Failed", reason="DeadlineExceeded")), NOW)

    assert condition(got, "Compiled")["reason"] == "CompileFailed"
    assert "1800 seconds" in condition(got, "Compiled")["message"]


def test_a_quota_that_admits_no_pod_is_told_while_it_is_waited_for():
    """Nobody here reads Events, so after half a minute, and at the end, the message has the command that shows them."""
    of, words = compiling(), "kubectl -n team-a describe job churn-1-compile says why (a quota"
    for seconds, reported in ((20, False), (30, True)):
        job = compile_job_of(of)
        job["status"]["startTime"] = (NOW - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
        got = plan_version(of, seen(job), NOW)
        assert condition(got, "Compiled")["reason"] == "Compiling"
        assert (words in condition(got, "Compiled")["message"]) == reported
        assert reported or got.after == timedelta(seconds=10)
    over = plan_version(of, seen(compile_job_of(of, "Failed", reason="DeadlineExceeded")), NOW)
    assert words in condition(over, "Compiled")["message"]


def message_of_a_pod_that_died(code: int, reason: str, log: str) -> str:
    """The message of Compiled when the last pod ended so, and left no verdict."""
    of = compiling()
    died = pod_of(of, "Failed", **ended_container(code, reason, log, "compile"))
    got = plan_version(of, seen(compile_job_of(of, "Failed", reason="BackoffLimitExceeded"), died), NOW)
    return condition(got, "Compiled")["message"]


def test_a_pod_that_died_without_a_verdict_leaves_the_end_of_its_log():
    """The pod and its log are gone minutes later, so the condition keeps the last lines, and names no log."""
    message = message_of_a_pod_that_died(139, "Error", "loading\nSegmentation fault")
    assert "exited with code 139: Segmentation fault; its log ended with: loading | Segmentation fault; " in message
    assert "kubectl" not in message


def test_compiling_that_takes_too_much_memory_gives_no_remedy_that_is_none():
    """No field sets how much such a pod may use: the native model is served."""
    message = message_of_a_pod_that_died(137, "OOMKilled", "")
    assert "used more memory than its limit" in message
    assert "resources.limits" not in message


def test_a_quota_counts_each_container():
    """A namespace with a quota admits only what says how much it asks for and may use."""
    of = one_version()
    spec = compile_job(of, of.spec.compile, PLATFORM)["spec"]["template"]["spec"]
    for item in (*spec["initContainers"], *spec["containers"]):
        assert {*item["resources"]["requests"]} == {*item["resources"]["limits"]} == {"cpu", "memory", DISK}


@pytest.mark.attack("model/forged-verdict")
@pytest.mark.parametrize(
    "changes", [{"uri": "s3://lake/team-b/x/"}, {"digest": "sha256:no"}, {"uri": ""}, {"reason": "Curious"}]
)
def test_a_verdict_that_anybody_may_have_written_is_not_followed(changes):
    """A compiled model counts only where compiling stores it, by a digest, and with a reason that is known."""
    of = compiling()
    got = plan_version(of, seen(compile_job_of(of, "Complete"), wording(of, good(of, **changes))), NOW)

    assert condition(got, "Compiled")["reason"] == "CompileFailed"
    assert "uri" not in got.status.get("compiled", {})


@pytest.mark.parametrize("words", ["", "[", json.dumps({"reason": ""}), good(one_version()).to_json().decode()[:-9]])
def test_last_words_that_are_no_verdict_lead_to_the_storage(words):
    """After an unreadable termination message the storage is asked; without a verdict there, compilation has failed."""
    of = compiling()
    there = seen(compile_job_of(of, "Complete"), wording(of, words))
    lost = replace(there, answers={result(of): StorageError("no", "ObjectNotFound")})

    assert questions_version(of, there) == (result(of),)
    assert condition(plan_version(of, lost, NOW), "Compiled")["reason"] == "CompileFailed"


def test_a_stranger_of_the_jobs_name_is_not_ours():
    """A Job that another object owns tells nothing about the version."""
    of = compiling()
    job = compile_job_of(of, "Complete")
    job["metadata"]["ownerReferences"] = [{"uid": "other", "controller": True}]
    got = plan_version(of, seen(job), NOW)
    assert [item["metadata"]["name"] for item in got.apply] == ["churn-1-compile"]


# What is served


def served(churn):
    """The task of the pods of an endpoint of that version."""
    [deployment] = [
        item for item in plan_endpoint(endpoint(), seen(related=(churn,)), NOW).apply if item["kind"] == "Deployment"
    ]
    variables = deployment["spec"]["template"]["spec"]["containers"][0]["env"]
    return ServingTask.from_json(variables[0]["value"])


def test_an_endpoint_serves_the_compiled_artifact():
    """With a compiled model, pods fetch that model under the version's own name and signature."""
    of = compiling()
    done = plan_version(of, seen(compile_job_of(of, "Complete"), wording(of, good(of))), NOW).status
    task = served({**of.manifest, "status": done})

    assert (task.uri, task.digest, task.format) == (f"{prefix(of)}cccc/", OTHER, "onnx")
    assert (task.model, task.version) == ("churn", "1")


def test_an_endpoint_serves_the_native_artifact_where_compiling_failed():
    """A version with a verdict that is not good is served as it was registered."""
    of = compiling()
    done = plan_version(of, seen(compile_job_of(of, "Complete"), wording(of, BAD)), NOW).status
    task = served({**of.manifest, "status": done})

    assert (task.uri, task.digest, task.format) == ("s3://lake/churn/1/", DIGEST, "sklearn")


def test_a_compiled_model_is_looked_up_again_if_its_figures_are_damaged():
    """Without its uri the native model would be served from then on; the storage has the verdict."""
    of = compiling()
    done = plan_version(of, seen(compile_job_of(of, "Complete"), wording(of, good(of))), NOW).status
    assert questions_version(one_version(done), seen()) == ()
    for part in ({"rows": -1}, {"uri": ""}, {"digest": ""}):
        damaged = one_version({**done, "compiled": {**done["compiled"], **part}})
        assert questions_version(damaged, seen()) == (result(of),)

    restored = plan_version(damaged, seen(answers={result(of): good(of).to_json().decode()}), NOW)
    assert restored.status["compiled"] == done["compiled"]
    away = plan_version(damaged, seen(answers={result(of): StorageError("away", "Unreachable")}), NOW)
    assert (condition(away, "Compiled")["status"], away.apply) == ("True", ())
    assert away.after is not None
