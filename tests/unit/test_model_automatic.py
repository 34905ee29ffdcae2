"""A ModelVersion without spec.compile: served natively at once, compiled in the background, quietly."""

from __future__ import annotations

from datetime import timedelta

import pytest
from builders import DIGEST, NOW, condition, ended_container, endpoint, model, ours, read, seen, version
from msgspec.structs import replace
from ultramarine_contract.errors import StorageError
from ultramarine_contract.serving_records import ServingTask
from ultramarine_contract.training_records import TerminationRecord
from ultramarine_contract.version_records import CompileRecord
from ultramarine_operator.kinds.model.compiling import HEAD_START
from ultramarine_operator.kinds.model.plan import plan_version, questions_version
from ultramarine_operator.kinds.onlineendpoint.deployment.health import assess
from ultramarine_operator.kinds.onlineendpoint.endpoint import Endpoint
from ultramarine_operator.kinds.onlineendpoint.resolve import Resolved, resolve
from ultramarine_operator.kinds.onlineendpoint.rollout.decide import identity
from ultramarine_operator.shared.questions import ArtifactFacts, CheckArtifact
from unit.test_model_compiling import BAD, compile_job_of, good, pod_of, wording
from unit.test_onlineendpoint_plan import deployment

FOUND = {CheckArtifact("s3://lake/churn/1/"): ArtifactFacts(DIGEST, 42)}
LATER = NOW + HEAD_START
REFUSAL = CompileRecord(rows_from="", load_error="CodeExecutionRefused", message="model.skops holds a.B; trust it")


def one_version(status=None, number=1, **spec):
    """ModelVersion churn-1 as it was applied."""
    return read(ours("ModelVersion", f"churn-{number}", {**version(number)["spec"], **spec}, status))


def results(**spec):
    """It as its artifact was found."""
    return one_version(plan_version(one_version(**spec), seen(answers=FOUND), NOW).status, **spec)


def explicit():
    """Its twin that asks for compiling by itself: their Jobs are the same."""
    return one_version(results().status, compile={"to": "onnx"})


def verdict(record):
    """The plan of a version whose pod has said this."""
    return plan_version(results(), seen(compile_job_of(explicit(), "Complete"), wording(explicit(), record)), LATER)


def test_a_version_is_ready_at_once():
    """Nothing is made yet: the servers have a head start, and the message says what comes."""
    got = plan_version(one_version(), seen(answers=FOUND), NOW)

    assert (got.status["state"], condition(got, "Ready")["status"]) == ("Ready", "True")
    assert (got.apply, got.after) == ((), HEAD_START)
    assert "served natively meanwhile" in condition(got, "Compiled")["message"]
    assert condition(got, "Reconciling") == condition(got, "Stalled") == {}
    assert [event.reason for event in got.events] == ["ArtifactFound"]


def test_the_job_comes_a_little_later_and_the_status_stays():
    """When servers have had their start the Job is made, and no status is written for it."""
    got = plan_version(results(), seen(), LATER)

    assert [job["metadata"]["name"] for job in got.apply] == ["churn-1-compile"]
    assert got.status == results().status
    early = plan_version(results(), seen(), LATER - timedelta(seconds=4))
    assert (early.apply, early.after) == ((), timedelta(seconds=4))


def test_what_equal_models_have_stored_counts():
    """A verdict that is in the storage already is taken, and no Job is made."""
    [ask] = questions_version(results(), seen())
    got = plan_version(results(), seen(answers={ask: good(explicit()).to_json().decode()}), NOW)
    assert condition(got, "Compiled")["status"] == "True"
    away = plan_version(results(), seen(answers={ask: StorageError("away", "Unreachable")}), LATER)
    assert (away.apply, away.status["state"]) == ((), "Ready")


@pytest.mark.parametrize("format", ["onnx", "torch", "python"])
def test_other_formats_are_left_alone(format):
    """A format without a conversion makes no Job."""
    spec = {"format": {"name": format}, "allowCodeExecution": True}
    got = plan_version(one_version(**spec), seen(answers=FOUND), NOW)

    assert (got.apply, got.after) == ((), None)
    assert condition(got, "Compiled")["reason"] == "NotAsked"


def test_versions_from_before_an_upgrade_stay_as_they_are():
    """An operator that compiled nothing by itself has judged them: no Job, no restart, no write."""
    old = [
        {"type": "Ready", "status": "True", "reason": "ArtifactFound", "message": "stored"},
        {"type": "Compiled", "status": "False", "reason": "NotAsked", "message": "spec.compile is not set"},
    ]
    got = plan_version(one_version({"conditions": old}), seen(), LATER)

    assert got.apply == ()
    assert condition(got, "Compiled")["message"] == "spec.compile is not set"


def named(deployment=None, status=None):
    """An endpoint that serves churn."""
    deployments = [{"name": "blue", "model": "churn@latest", **(deployment or {})}]
    return ours("OnlineEndpoint", "shop", {"deployments": deployments}, status or {})


@pytest.mark.parametrize(
    ("aliases", "endpoint", "compiled"),
    [
        ({}, named(), False),
        ({"champion": "1"}, named(), True),
        ({"champion": "2"}, named({"model": "churn@1"}), True),
        ({}, named(status={"deployments": [{"name": "blue", "modelVersion": "churn-1"}]}), True),
        ({}, named({"model": "churn@2"}), False),
    ],
)
def test_only_what_is_newest_or_named_is_compiled(aliases, endpoint, compiled):
    """Of versions that come fast one after another the older ones cost no Job, until an alias or endpoint names one."""
    newer = model(aliases=aliases)
    newer["status"] = {"latestVersion": "2"}
    got = plan_version(results(), seen(related=(newer, endpoint)), LATER)

    assert bool(got.apply) == compiled
    assert condition(got, "Compiled")["reason"] == ("Compiling" if compiled else "Superseded")
    assert (got.status["state"], got.after, got.events) == ("Ready", None, ())
    again = plan_version(one_version(got.status), seen(related=(model(aliases={"champion": "1"}),)), LATER)
    assert len(again.apply) == 1


def test_a_good_verdict_has_endpoints_move():
    """Compiled turns True, and what endpoints resolve is the compiled artifact, of the same identity as before."""
    before = resolve("churn@1", seen(related=({**results().manifest},)))
    got = verdict(good(explicit()))
    after = resolve("churn@1", seen(related=({**results().manifest, "status": got.status},)))

    assert isinstance(before, Resolved)
    assert isinstance(after, Resolved)
    assert (before.spec.format.name, after.spec.format.name) == ("sklearn", "onnx")
    assert before.identity == after.identity
    assert [(event.reason, event.type) for event in got.events] == [("Compiled", "Normal")]


@pytest.mark.parametrize("record", [BAD, replace(BAD, reason="NotConvertible")])
def test_a_bad_verdict_is_quiet(record):
    """The native model goes on: a condition and a Normal event, no warning, nothing stalled, no advice to follow."""
    got = verdict(record)

    assert got.status["state"] == "Ready"
    assert condition(got, "Compiled")["message"] == "half of them differ; the native model is served"
    assert condition(got, "Stalled") == condition(got, "Reconciling") == {}
    assert [(event.reason, event.type) for event in got.events] == [(record.reason, "Normal")]


def test_a_model_that_no_server_can_load_is_not_ready():
    """The verdict's words are the version's, and @latest leads to the version before."""
    got = verdict(REFUSAL)

    assert (got.status["state"], condition(got, "Ready")["reason"]) == ("Refused", "CodeExecutionRefused")
    assert condition(got, "Ready")["message"] == condition(got, "Stalled")["message"] == REFUSAL.message
    assert [(event.reason, event.type) for event in got.events] == [("CodeExecutionRefused", "Warning")]
    newer = {**one_version(number=2).manifest, "status": got.status}
    chosen = resolve("churn@latest", seen(related=(version(1), newer)))
    assert isinstance(chosen, Resolved)
    assert chosen.name == "churn-1"
    again = plan_version(one_version(got.status), seen(), LATER)
    assert (again.status, again.apply, again.events) == (got.status, (), ())


def test_a_model_with_consent_waits_for_its_environment():
    """A version that lacks a package in the server image stays ready, also after an older Invalid; others do not."""
    lacking = replace(REFUSAL, load_error="DependencyMissing", message="model.pkl needs code: no module seaborn")
    refused = verdict(lacking)
    assert (refused.status["state"], condition(refused, "Ready")["reason"]) == ("Invalid", "DependencyMissing")

    allowed = one_version(refused.status, allowCodeExecution=True)
    twin = one_version(refused.status, allowCodeExecution=True, compile={"to": "onnx"})
    got = plan_version(allowed, seen(compile_job_of(twin, "Complete"), wording(twin, lacking)), LATER)
    assert (got.status["state"], condition(got, "Ready")["status"]) == ("Ready", "True")
    assert condition(got, "Compiled")["reason"] == "NotConvertible"
    assert "no module seaborn; a deployment with its packages" in condition(got, "Compiled")["message"]
    assert condition(got, "Stalled") == {}
    again = plan_version(one_version(got.status, allowCodeExecution=True), seen(), LATER)
    assert (again.status, again.apply, again.events) == (got.status, (), ())


def test_a_verdict_with_an_unknown_word_is_taken_for_the_models_fault():
    """A model that runs code can write the verdict too; the reason is one of ours."""
    got = verdict(replace(REFUSAL, load_error="Nonsense\n"))
    assert (got.status["state"], condition(got, "Ready")["reason"]) == ("Invalid", "ModelInvalid")


@pytest.mark.parametrize(("reason", "state"), [("DigestMismatch", "Invalid"), ("Unreachable", "Ready")])
def test_what_a_pod_says_of_itself_is_no_verdict_on_the_model(reason, state):
    """Another content than the registered one is; a storage that is away is not."""
    words = TerminationRecord(reason=reason, message="it is so").to_json()
    failed = pod_of(explicit(), "Failed", **ended_container(1, "Error", words, "fetch"))
    job = compile_job_of(explicit(), "Failed", reason="BackoffLimitExceeded")
    got = plan_version(results(), seen(job, failed), LATER)

    assert got.status["state"] == state
    assert condition(got, "Compiled")["reason"] == ("DigestMismatch" if state == "Invalid" else "CompileFailed")


def test_a_model_of_another_library_version_says_so_and_is_served():
    """Compatible is False with both versions, in a Warning, once; the version stays ready."""
    got = verdict(good(explicit(), mismatch="saved by scikit-learn 1.5.2, the server has 1.9.0"))

    assert got.status["state"] == "Ready"
    assert condition(got, "Compatible")["reason"] == "VersionMismatch"
    assert "1.5.2" in condition(got, "Compatible")["message"]
    assert ("VersionMismatch", "Warning") in [(event.reason, event.type) for event in got.events]
    again = plan_version(one_version(got.status), seen(), LATER)
    assert (again.status, again.events) == (got.status, ())


ROLLOUT = {"candidate": "green", "steps": [50, 100]}
BLUE, GREEN = {"name": "blue", "model": "churn@1"}, {"name": "green", "model": "churn@2"}


@pytest.mark.parametrize(
    ("phase", "served"),
    [("Waiting", "sklearn"), ("Progressing", "sklearn"), ("Paused", "sklearn"), ("Promoted", "onnx"), ("", "sklearn")],
)
def test_pods_that_are_compared_are_not_replaced(phase, served):
    """While a rollout goes on what serves natively stays so, and its identity is the same; then it moves."""
    status = {"rollout": {"phase": phase}} if phase else {}
    shop = endpoint(status, deployments=[BLUE, GREEN], traffic={"blue": 100}, rollout=ROLLOUT)
    moved = [{**results().manifest, "status": verdict(good(explicit())).status}, version(2)]
    live = deployment(shop, 1)
    got = assess(Endpoint.of(shop), shop.spec.deployments[0], seen(live, related=tuple(moved)), live, keep=False)
    [made] = [item for item in got.apply if item["kind"] == "Deployment"]
    task = made["spec"]["template"]["spec"]["containers"][0]["env"][0]["value"]

    assert ServingTask.from_json(task).format == served
    fresh = assess(Endpoint.of(shop), shop.spec.deployments[0], seen(related=tuple(moved)), None, keep=False)
    task = fresh.apply[0]["spec"]["template"]["spec"]["containers"][0]["env"][0]["value"]
    assert ServingTask.from_json(task).format == "onnx", "what has no pods yet begins with the compiled model"


def test_a_rollout_does_not_begin_again_when_its_candidate_is_compiled():
    """The identity of what is rolled out is that of the version as it was registered."""
    churn = endpoint({}, deployments=[BLUE, {**GREEN, "model": "churn@1"}], traffic={"blue": 100}, rollout=ROLLOUT)
    before = identity(churn, seen(related=(results().manifest,)))
    after = identity(churn, seen(related=({**results().manifest, "status": verdict(good(explicit())).status},)))

    assert before
    assert before == after
