"""Plans of a Sweep whose trials are TrainingJobs, and the replies to its coordinator."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from builders import (
    DIGEST,
    NOW,
    PLATFORM,
    child,
    condition,
    job,
    kinds_of,
    pod,
    read,
    seen,
    succeeded_pod,
    sweep,
    sweep_job,
    sweep_pod,
    training_job,
)
from ultramarine_contract import common as contract
from ultramarine_contract.errors import InvalidSpec
from ultramarine_contract.meta import ANNOTATION_REQUESTED_BY, MAX_NAME, Manifest
from ultramarine_contract.parameters import MOST_PODS
from ultramarine_contract.sweep_records import BestTrial, Fetched, SweepSummary, TrialTask, WantedTrial
from ultramarine_contract.training_records import InputRecord, Progress, SourceRecord, TrainingTask
from ultramarine_operator.kinds.sweep import KIND
from ultramarine_operator.kinds.sweep.plan import plan as plan_sweep
from ultramarine_operator.kinds.sweep.podpertrial import answer
from ultramarine_operator.kinds.trainingjob.manifests import training_job as build_job
from ultramarine_operator.kinds.trainingjob.plan import plan as plan_job
from ultramarine_operator.shared.conditions import parse_timestamp
from ultramarine_operator.shared.plan import Obj, Plan, Seen
from ultramarine_operator.training.trials import ANNOTATION_TRIAL, task_of, trial_name

WANTED = (WantedTrial(0, {"lr": 0.001}), WantedTrial(3, {"lr": 1e-05}))
TRIAL = "TrainingJob"
HEARD = replace(PLATFORM, progress_url="http://operator:8080")


def alone(status: Manifest | None = None, **spec: Any) -> Obj[Any]:
    """A Sweep called hpo with a job for each trial."""
    return sweep(status, **{"execution": "PodPerTrial", **spec})


def plan(hpo: Obj[Any], here: Seen) -> Plan:
    return plan_sweep(hpo, replace(here, platform=HEARD), NOW)


def running(hpo: Obj[Any], *more: Manifest, **reported: Any) -> Seen:
    """Its coordinator runs, and has told that."""
    here = seen(sweep_job(sweep(), "coordinator", active=1), sweep_pod(hpo, "coordinator"), *more)
    return replace(here, report=SweepSummary(**reported))


def trial(hpo: Obj[Any], number: int, state: str = "Running", **status: Any) -> Manifest:
    """The TrainingJob of a trial, with such a condition."""
    made = child("TrainingJob", trial_name("hpo", number), hpo, {"command": ["true"], "suspend": False})
    reported = {"type": state, "status": "True", "reason": "Because"}
    made["metadata"]["annotations"] = {ANNOTATION_TRIAL: json.dumps({"trial": number, "objectives": ["loss"]})}
    made["status"] = {"state": state, "conditions": [reported], **status}
    return made


def jobs(got: Plan) -> dict[str, Manifest]:
    """The trials' jobs among what a plan applies."""
    return {m["metadata"]["name"]: m for m in got.apply if m["kind"] == "TrainingJob"}


def test_a_new_sweep_gets_a_coordinator_and_no_workers():
    """Trials come when the coordinator wants some."""
    got = plan(alone(), seen())

    assert kinds_of(got.apply) == ["ConfigMap/hpo-sweep-source", "Service/hpo-coordinator", "Job/hpo-coordinator"]
    assert [effect.metadata["name"] for effect in got.effects] == ["hpo-sweep-token"]
    (made,) = (m for m in got.apply if m["kind"] == "Job")
    (reported,) = (
        v["value"] for v in made["spec"]["template"]["spec"]["containers"][0]["env"] if v["name"] == contract.ENV_SWEEP
    )
    assert json.loads(reported)["pod_per_trial"] is True


@pytest.mark.attack("author/requester")
def test_a_trial_is_asked_for_by_who_asked_for_its_sweep():
    """Its job inherits the author, and keeps the one that it has when it is held."""
    hpo = alone()
    hpo.manifest["metadata"]["annotations"] = {ANNOTATION_REQUESTED_BY: "ada"}
    here = running(hpo, wanted=WANTED[:1])
    asked = [
        [made["metadata"]["annotations"].get(ANNOTATION_REQUESTED_BY) for made in got.apply if made["kind"] == TRIAL]
        for got in (plan_sweep(hpo, replace(here, platform=replace(HEARD, knows_requester=k)), NOW) for k in (0, 1))
    ]
    assert asked == [[None], ["ada"]]

    old = trial(hpo, 0)
    old["metadata"]["annotations"] |= {ANNOTATION_REQUESTED_BY: "the operator"}
    hpo.manifest["spec"]["suspend"] = True
    held = plan(read(hpo.manifest), running(hpo, old, wanted=WANTED[:1]))
    [job] = [made for made in held.apply if made["kind"] == TRIAL]
    assert job["metadata"]["annotations"] == old["metadata"]["annotations"]


def test_each_trial_that_is_wanted_gets_a_job():
    """Of the template's spec, with its parameters; the code is the sweep's, and once made it is left alone."""
    hpo = alone(limits={"maxTrials": 10, "trialTimeoutSeconds": 60})
    got = jobs(plan(hpo, running(hpo, trial(hpo, 3), wanted=WANTED)))

    assert list(got) == ["hpo-trial-0"]
    made = got["hpo-trial-0"]
    assert made["metadata"]["ownerReferences"][0] == {
        **{"apiVersion": "ultramarine.dev/v1alpha1", "kind": "Sweep", "name": "hpo", "uid": "Sweep-hpo-uid"},
        **{"controller": True, "blockOwnerDeletion": True},
    }
    assert made["spec"] == {
        "command": ["python", "train.py", "--lr=$(params.lr)"],
        "parameters": {"lr": "0.001"},
        "source": {"configMap": {"name": "hpo-sweep-source"}},
        "suspend": False,
    }
    reported = TrialTask.from_json(made["metadata"]["annotations"][ANNOTATION_TRIAL])
    assert reported == TrialTask(0, ("loss",), 60)


def test_parameters_are_told_as_texts_and_arguments_without_one_are_left_out():
    """Numbers as Python writes them, booleans as YAML does; fixed parameters, inputs and the rest stay."""
    template = {
        "command": ["sh", "-c", "$(params.a) $(params.fixed)", "--b=$(params.b)"],
        "args": ["--a=$(params.a)", "--b=$(params.b)", "$(inputs.data)"],
        "parameters": {"fixed": "yes"},
        "inputs": {"data": {"uri": "s3://lake/x"}},
        "nodes": 2,
        "framework": "torch",
        "checkpoint": {},
        "backoffLimit": 1,
    }
    space = {"a": {"choice": [True, False]}, "b": {"int": {"min": 1, "max": 3}, "when": {"a": [True]}}}
    hpo = alone(searchSpace=space, trialTemplate={"spec": template})
    got = jobs(plan(hpo, running(hpo, wanted=(WantedTrial(0, {"a": True, "b": 2}), WantedTrial(1, {"a": False})))))

    assert got["hpo-trial-0"]["spec"]["parameters"] == {"fixed": "yes", "a": "true", "b": "2"}
    assert got["hpo-trial-0"]["spec"]["args"] == template["args"]
    spec = got["hpo-trial-1"]["spec"]
    assert spec["parameters"] == {"fixed": "yes", "a": "false"}
    assert spec["command"] == ["sh", "-c", "$(params.a) $(params.fixed)"]
    assert spec["args"] == ["--a=$(params.a)", "$(inputs.data)"]
    assert {name: spec[name] for name in ("nodes", "framework", "checkpoint", "backoffLimit", "inputs")} == {
        name: template[name] for name in ("nodes", "framework", "checkpoint", "backoffLimit", "inputs")
    }


def test_a_reference_to_nothing_is_refused_once():
    """And not trial by trial."""
    hpo = alone(trialTemplate={"spec": {"command": ["python", "$(params.nosuch)"]}})
    with pytest.raises(InvalidSpec, match="has no 'nosuch'"):
        plan(hpo, seen())


PAUSING = {
    "earlyTermination": {"type": "asha", "minSteps": 1, "maxSteps": 9},
    "trialTemplate": {"spec": {"command": ["true"], "checkpoint": {}}},
}


def suspended(hpo: Obj[Any], number: int) -> Manifest:
    """The job of a trial that is held."""
    job = trial(hpo, number, "Suspended")
    job["spec"]["suspend"] = True
    return job


def test_the_job_of_a_paused_trial_is_held_until_it_is_wanted_again():
    """It goes on neither before its coordinator speaks nor at the sweep's end, and is no trouble."""
    hpo = alone(**PAUSING)

    got = jobs(plan(hpo, running(hpo, trial(hpo, 0), trial(hpo, 3), wanted=WANTED, paused=(3,))))
    assert {name: job["spec"]["suspend"] for name, job in got.items()} == {"hpo-trial-3": True}
    for reported in ({"paused": (3,)}, {"outcome": "Failed"}):
        assert jobs(plan(hpo, running(hpo, suspended(hpo, 3), **reported))) == {}
    assert jobs(plan(hpo, replace(running(hpo, suspended(hpo, 3)), report=None))) == {}
    on = jobs(plan(hpo, running(hpo, suspended(hpo, 0), suspended(hpo, 3), wanted=WANTED[:1], paused=(3,))))
    assert {name: job["spec"]["suspend"] for name, job in on.items()} == {"hpo-trial-0": False}
    former = jobs(plan(hpo, running(hpo, suspended(hpo, 3), succeeded=1)))
    assert former["hpo-trial-3"]["spec"]["suspend"] is False, "its result is known, and its job has still to say so"
    waits = plan(hpo, running(hpo, suspended(hpo, 3), succeeded=1, paused=(3,)))
    assert condition(waits, "Running")["reason"] == "TrialsRunning"
    old = {"state": "Suspended", "conditions": [{"type": "Running", "status": "False", "reason": "Suspended"}]}
    again = plan(hpo, running(hpo, {**trial(hpo, 0), "status": old}, succeeded=1, wanted=WANTED[:1]))
    assert condition(again, "Running")["reason"] == "TrialsRunning"


QUIET = {"status": {"conditions": [{"type": "Suspended", "status": "True"}]}}


@pytest.mark.parametrize(
    ("there", "its", "held"),
    [
        (lambda hpo: None, None, [3]),
        (lambda hpo: suspended(hpo, 3), QUIET, [3]),
        (lambda hpo: suspended(hpo, 3), None, [3]),
        (lambda hpo: suspended(hpo, 3), {"status": {"startTime": "2030-01-01T11:00:00Z"}}, []),
        (lambda hpo: trial(hpo, 3, "Failed"), {"status": {}}, [3]),
        (lambda hpo: trial(hpo, 3), QUIET, []),
    ],
)
def test_its_coordinator_hears_when_the_pods_of_a_paused_trial_go(there, its, held):
    """As long as Kubernetes has not told them its place is not free, and it cannot go on."""
    hpo = alone(**PAUSING)
    results = {"TrainingJob": there(hpo), "Job": its}

    assert (answer(hpo, SweepSummary(paused=(3,)), lambda kind, name: results[kind]) or {})["held"] == held


def test_a_suspended_sweep_holds_its_trials():
    """Those that have not ended are suspended, and go on with the sweep; nothing else of them changes."""
    held = alone(suspend=True)
    ended, live = trial(held, 0, "Succeeded"), trial(held, 3)
    got = jobs(plan(held, seen(sweep_job(sweep(), "coordinator"), ended, live)))

    assert list(got) == ["hpo-trial-3"]
    assert got["hpo-trial-3"]["spec"] == {"command": ["true"], "suspend": True}
    assert got["hpo-trial-3"]["metadata"]["annotations"] == live["metadata"]["annotations"]

    on, live = alone(), trial(held, 3)
    live["spec"]["suspend"] = True
    assert jobs(plan(on, running(on, live)))["hpo-trial-3"]["spec"]["suspend"] is False


def test_a_sweep_that_is_over_ends_what_still_runs():
    """The others' jobs stay, with their logs."""
    ended = {"type": "Succeeded", "status": "True"}
    over = alone({"state": "Succeeded", "conditions": [ended], "completionTime": "2030-01-01T11:59:00Z"})
    live, leaving = trial(over, 3), trial(over, 4)
    leaving["metadata"]["deletionTimestamp"] = "2030-01-01T11:59:00Z"
    got = plan(over, seen(trial(over, 0, "Succeeded"), trial(over, 1, "Failed"), live, leaving))

    assert [(ref.resource.kind, ref.name) for ref in got.delete] == [("TrainingJob", "hpo-trial-3")]


def test_a_trial_whose_log_is_being_stored_is_let_end():
    """The coordinator knows a trial's result some seconds before its job does; the others go sooner."""
    ended = {"type": "Succeeded", "status": "True"}

    def after(seconds: int) -> Plan:
        end = (NOW - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
        over = alone({"state": "Succeeded", "conditions": [ended], "completionTime": end})
        return plan(over, seen(trial(over, 3), trial(over, 4, "Pending")))

    assert (after(1).delete, after(1).after) == ((), timedelta(seconds=4))
    assert ([ref.name for ref in after(6).delete], after(6).after) == (["hpo-trial-4"], timedelta(seconds=14))
    assert [ref.name for ref in after(20).delete] == ["hpo-trial-3", "hpo-trial-4"]


def test_a_trial_that_a_restore_has_made_is_not_ended_at_once():
    """Its status follows a moment later, and says how it ended."""
    ended = {"type": "Succeeded", "status": "True"}
    over = alone({"state": "Succeeded", "conditions": [ended], "completionTime": "2030-01-01T09:00:00Z"})
    restored = trial(over, 3, "Pending")
    restored["metadata"]["creationTimestamp"] = "2030-01-01T11:59:59Z"
    got = plan(over, seen(restored))

    assert (got.delete, got.after) == ((), timedelta(seconds=4))


def test_an_operator_that_was_away_lets_trials_show_that_they_have_ended():
    """Time counts from the status that reports the sweep's end, not from the end of its coordinator."""

    def after(seconds: int) -> Plan:
        reported = (NOW - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
        ended = {"type": "Succeeded", "status": "True", "lastTransitionTime": reported}
        over = alone({"state": "Succeeded", "conditions": [ended], "completionTime": "2030-01-01T09:00:00Z"})
        return plan(over, seen(trial(over, 3)))

    assert (after(1).delete, after(1).after) == ((), timedelta(seconds=19))
    assert [ref.name for ref in after(20).delete] == ["hpo-trial-3"]


def test_a_stranger_of_the_same_name_is_not_touched():
    """A TrainingJob that is not the sweep's own is neither held nor deleted, nor told of."""
    over = alone({"state": "Failed", "conditions": [{"type": "Failed", "status": "True"}]})
    stranger = trial(over, 0, "Succeeded")
    stranger["metadata"]["ownerReferences"] = []

    assert plan(over, seen(stranger)).delete == ()
    assert answer(alone(), SweepSummary(wanted=WANTED), lambda kind, name: stranger) == {
        "parallel": 2,
        "ended": [],
        "held": [],
    }


def waits(hpo: Obj[Any], reason: str, message: str) -> Manifest:
    """A trial whose pod has not started."""
    made = trial(hpo, 3, "Pending")
    made["status"]["conditions"] = [{"type": "Running", "status": "False", "reason": reason, "message": message}]
    return made


def test_the_state_says_whether_trials_run():
    """It runs from the first trial on, also between two of them; where the only ones wait, it says for what."""
    hpo = alone()
    unheard = plan(hpo, running(hpo))
    assert unheard.status["state"] == "Pending"
    assert "pod hpo-coordinator-0-abcde has not said yet which trials run" in condition(unheard, "Running")["message"]
    first = plan(hpo, running(hpo, trial(hpo, 3)))
    assert first.status["state"] == "Running"
    assert (
        condition(first, "Running")["message"] == "trials run as TrainingJobs; pod hpo-coordinator-0-abcde says which"
    )
    after = alone(first.status)
    assert plan(after, running(after, trial(hpo, 3, "Succeeded"))).status["state"] == "Running", (
        "it has not been counted"
    )
    between = running(hpo, trial(hpo, 0, "Succeeded"), waits(hpo, "PodStarting", "its pod is starting"), succeeded=1)
    assert plan(hpo, between).status["state"] == "Running"
    stuck = plan(hpo, running(hpo, waits(hpo, "Unschedulable", "0/1 nodes are available"), succeeded=1))
    assert stuck.status["state"] == "Pending"
    assert condition(stuck, "Running")["message"] == "TrainingJob hpo-trial-3: 0/1 nodes are available"


def test_what_keeps_a_trial_back_is_said():
    """A job that is refused, or whose Job is, says so in another condition than that it does not run."""
    hpo = alone()
    refused = waits(hpo, "PodStarting", "its pod is starting")
    words = "Job hpo-trial-3 is not admitted: exceeded quota"
    refused["status"]["conditions"].append(
        {"type": "Reconciled", "status": "False", "reason": "Forbidden", "message": words}
    )
    got = plan(hpo, running(hpo, refused))
    assert condition(got, "Running")["reason"] == "Forbidden"
    assert condition(got, "Running")["message"] == f"TrainingJob hpo-trial-3: {words}"


def test_a_lost_token_is_made_anew():
    """When a trial's pod misses the Secret the coordinator begins anew with another one, and trials go on."""
    hpo = alone()
    words = "container trainer: Secret hpo-sweep-token not found"
    stuck = waits(hpo, "CreateContainerConfigError", words)
    got = plan(hpo, running(hpo, stuck))

    assert [(ref.resource.kind, ref.name) for ref in got.delete] == [("Job", "hpo-coordinator")]
    assert [effect.metadata["name"] for effect in plan(hpo, seen(stuck)).effects] == ["hpo-sweep-token"]

    stuck["metadata"]["creationTimestamp"] = "2030-01-01T11:29:59Z"  # before the coordinator that is there now
    assert plan(hpo, running(hpo, stuck)).delete == (), "its pod only has to look again"


def test_without_ears_of_the_operator_there_can_be_no_jobs():
    """An impossible execution is refused with the remedy."""
    with pytest.raises(InvalidSpec, match=r"set progress.enabled in the chart"):
        plan_sweep(alone(), seen(), NOW)


def test_a_grid_has_no_more_points_than_there_can_be_jobs():
    """Which only the space tells."""
    space = {name: {"int": {"min": 1, "max": 11}} for name in ("a", "b", "c")}
    grid = {"searchSpace": space, "algorithm": {"type": "grid"}, "trialTemplate": {"spec": {"command": ["a"]}}}
    with pytest.raises(InvalidSpec, match="1331 points, and execution PodPerTrial 1000 trials at most"):
        plan(alone(**grid, limits={}), seen())
    plan(alone(**grid, limits={"maxTrials": 1000}), seen())


def test_a_trial_has_no_more_parameters_than_a_job_can_have():
    """Those that are fixed count too; in a pool nothing has them all."""
    fixed = {f"fixed{number}": "1" for number in range(127)}
    template = {"command": ["a"], "parameters": fixed}
    assert "Job/hpo-coordinator" in kinds_of(plan(alone(trialTemplate={"spec": template}), seen()).apply)
    more = {"spec": {**template, "parameters": {**fixed, "one": "1"}}}
    with pytest.raises(InvalidSpec, match="have 129 parameters together, and a TrainingJob 128 at most"):
        plan(alone(trialTemplate=more), seen())
    plan_sweep(sweep(trialTemplate=more), seen(), NOW)


def test_the_longest_name_has_room_for_the_last_trial():
    """A TrainingJob's name has a limit of its own."""
    longest = next(int(rule.rsplit("<= ", 1)[1]) for rule, _ in KIND.rules if "execution" in rule)
    assert len(trial_name("a" * longest, MOST_PODS - 1)) == MAX_NAME


def test_nodes_count_for_the_budget():
    """A trial uses what all of its pods reserve."""
    template = {"command": ["a"], "nodes": 3, "framework": "none", "resources": {"requests": {"cpu": 2}}}
    got = plan(alone(trialTemplate={"spec": template}), seen())
    (made,) = (m for m in got.apply if m["kind"] == "Job")
    reported = {v["name"]: v.get("value") for v in made["spec"]["template"]["spec"]["containers"][0]["env"]}

    assert json.loads(str(reported[contract.ENV_SWEEP]))["trial_cpus"] == 6.0


# What the coordinator hears


def reported(hpo: Obj[Any], *there: Manifest, wanted: tuple[WantedTrial, ...] = WANTED) -> Manifest:
    """The answer, where these jobs are there."""
    results = {item["metadata"]["name"]: item for item in there}
    got = answer(hpo, SweepSummary(wanted=wanted), lambda kind, name: results.get(name))
    assert got is not None
    return got


def test_a_coordinator_hears_how_many_trials_may_run():
    """The reply has the present limit of the spec, and 0 during suspension. A pool's coordinator gets no reply."""
    assert reported(alone(limits={"maxTrials": 10, "parallelTrials": 7})) == {"parallel": 7, "ended": [], "held": []}
    assert reported(alone(suspend=True))["parallel"] == 0
    assert answer(sweep(), SweepSummary(), lambda kind, name: None) is None


def test_a_coordinator_hears_how_trials_ended():
    """The reply has the outcome of the requested jobs; running ones are left out.

    The seconds are those of its pods: it waited for a node before, and was held in between.
    """
    hpo = alone()
    runs = [("11:00:00", "11:00:04"), ("11:10:00", "11:10:05")]
    stored = {"uri": "s3://lake/team-a/trainingjobs/hpo-trial-0/u/model/d/", "digest": "sha256:d", "bytes": 3}
    done = trial(
        hpo,
        0,
        "Succeeded",
        startTime="2030-01-01T10:00:00Z",
        completionTime="2030-01-01T11:30:00Z",
        activeSeconds=5400,
        attemptHistory=[
            *({"pod": f, "startTime": f"2030-01-01T{f}Z", "endTime": f"2030-01-01T{t}Z"} for f, t in runs),
            {"pod": "b", "node": 1, "startTime": "2030-01-01T10:00:00Z", "endTime": "2030-01-01T11:00:00Z"},
        ],
        metrics={"latest": {"loss": 0.5}},
        outputs={"model": {**stored, "format": "sklearn", "untrusted": "builtins.eval"}},
    )
    [ended] = reported(hpo, done, trial(hpo, 3), trial(hpo, 5, "Failed"))["ended"]

    assert ended == {
        **{"trial": 0, "attempt": 1, "outcome": "Succeeded", "exitCode": 0, "seconds": 9.0, "metrics": {"loss": 0.5}},
        "outputs": {"model": {**stored, "format": "sklearn", "untrusted": "builtins.eval"}},
    }


@pytest.mark.parametrize(
    ("failure", "outcome", "code"),
    [
        ({"reason": "CommandFailed", "exitCode": 3}, "Failed", 3),
        ({"reason": "ImagePullBackOff"}, "Failed", 1),
        ({"reason": "StoppedEarly", "exitCode": 203}, "Stopped", 203),
        ({"reason": "TrialTimeout", "exitCode": 203}, "Failed", 203),
    ],
)
def test_a_failure_is_told_in_its_own_words(failure: Manifest, outcome: str, code: int):
    """A trial that its sweep has ended has not failed; one without exit code does not look like one that went well."""
    hpo = alone()
    failed = trial(hpo, 0, "Failed", failure={**failure, "message": "raise spec.resources", "tail": "last line"})
    [ended] = reported(hpo, failed)["ended"]

    assert (ended["outcome"], ended["exitCode"]) == (outcome, code)
    assert (ended["message"], ended["tail"]) == ("raise spec.trialTemplate.spec.resources", "last line")


def test_a_word_in_a_status_is_no_end():
    """A foreign word in a status counts for nothing: a job has ended when its conditions say so."""
    forged = trial(alone(), 0)
    forged["status"]["state"] = "Succeeded"
    assert reported(alone(), forged)["ended"] == []


def test_a_trial_with_nothing_to_run_has_failed():
    """It gets no job, which would be refused."""
    space = {"a": {"choice": [True, False]}, "b": {"constant": 1, "when": {"a": [True]}}}
    hpo = alone(searchSpace=space, trialTemplate={"spec": {"command": ["$(params.b)"]}})
    wanted = (WantedTrial(0, {"a": False}),)

    assert jobs(plan(hpo, running(hpo, wanted=wanted))) == {}
    [ended] = reported(hpo, wanted=wanted)["ended"]
    assert "refers to parameters that this trial does not have" in ended["message"]


@pytest.mark.attack("training/sweep-output")
def test_the_best_trials_output_is_registered_from_where_its_job_stores():
    """And from nowhere else, whatever its trainer has told."""
    hpo = alone(registerBest="churn", trialTemplate={"spec": {"command": ["a"], "outputs": {"model": {}}}})
    here = seen(sweep_job(sweep(), "coordinator", "Complete"))
    for uri, kinds in (
        ("s3://lake/team-a/trainingjobs/hpo-trial-3/any-uid/model/d/", ["Model", "ModelVersion"]),
        ("s3://lake/team-a/trainingjobs/hpo-trial-30/any-uid/model/d/", []),
        ("s3://lake/team-b/trainingjobs/hpo-trial-3/any-uid/model/d/", []),
    ):
        outputs = {"model": contract.OutputRecord(uri, "sha256:d", 3, "sklearn")}
        summary = SweepSummary(
            "Succeeded", "MaxTrialsReached", "all", succeeded=1, best=(BestTrial(3, (1.0,), {}, outputs),)
        )
        (question,) = KIND.questions(hpo, here)
        got = plan(hpo, replace(here, answers={question: summary.to_json().decode()}))
        assert [m["kind"] for m in got.create] == kinds


def test_what_servers_will_refuse_of_a_trials_model_is_known_without_its_pod():
    """A coordinator that learns of an output by the status of the trial's job registers it with its untrusted types."""
    spec = {"command": ["a"], "outputs": {"model": {}}}
    hpo, uri = alone(registerBest="churn", trialTemplate={"spec": spec}), "s3://lake/team-a/trainingjobs/hpo-trial-0/"
    trained = training_job({}, outputs={"model": {}})
    record = contract.OutputRecord(f"{uri}u/model/d/", DIGEST, 3, "sklearn", "builtins.eval, os.system")
    done = plan_job(trained, seen(job(trained, "Complete"), succeeded_pod(trained, model=record)), NOW)
    [ended] = reported(hpo, trial(hpo, 0, "Succeeded", outputs=done.status["outputs"]))["ended"]
    best = BestTrial(0, (1.0,), {}, {"model": contract.read_known(contract.OutputRecord, ended["outputs"]["model"])})
    summary = SweepSummary("Succeeded", "MaxTrialsReached", "all", succeeded=1, best=(best,))
    here = seen(sweep_job(sweep(), "coordinator", "Complete"))
    (question,) = KIND.questions(hpo, here)
    got = plan(hpo, replace(here, answers={question: summary.to_json().decode()}))
    assert got.create[-1]["spec"]["format"] == {"name": "sklearn", "untrustedTypes": ["builtins.eval", "os.system"]}


def test_the_best_trials_image_code_and_inputs_are_those_of_its_job():
    """The coordinator hears of code and inputs; the image is read off the status of the trial's job."""
    hpo = alone()
    record = {"sourceDigest": DIGEST, "gitCommit": "c", "imageDigest": f"train@{DIGEST}"}
    inputs = {"table": {"digest": DIGEST, "bytes": 7, "files": 0}, "stream": {"bytes": 1, "files": 0}}
    done = trial(hpo, 3, "Succeeded", provenance=record, inputs=inputs)
    [ended] = reported(hpo, done, wanted=(WantedTrial(3, {}),))["ended"]
    fetched = contract.read_known(Fetched, ended["fetched"])
    assert fetched == Fetched(
        SourceRecord(DIGEST, "c"), {"table": InputRecord(DIGEST, 7), "stream": InputRecord("", 1)}
    )
    best = BestTrial(3, (1.0,), fetched=fetched)
    summary = SweepSummary("Succeeded", "MaxTrialsReached", "all", succeeded=1, best=(best,))
    here = seen(sweep_job(sweep(), "coordinator", "Complete"))
    (question,) = KIND.questions(hpo, here)
    here = replace(here, look=lambda kind, name: done, answers={question: summary.to_json().decode()})
    got = plan(hpo, here).status
    assert (got["provenance"], got["inputs"]) == (record, inputs)


# The job of a trial


@pytest.mark.parametrize(
    ("model", "format"), [({}, "auto"), ({"format": "python", "compile": {"to": "onnx"}}, "python")]
)
def test_the_pods_of_a_trial_know_whom_to_tell(model, format):
    """Pods get the address, the key and the report; for the output to register, the format is requested.

    The trial's own spec says nothing of a model: a TrainingJob that registers none is refused with that.
    """
    outputs = {"command": ["a"], "outputs": {"model": model, "more": {}}}
    hpo = alone(registerBest="churn", trialTemplate={"spec": outputs})
    (made,) = jobs(plan(hpo, running(hpo, wanted=WANTED[:1]))).values()
    assert made["spec"]["outputs"] == {"model": {}, "more": {}}
    made["metadata"] |= {"uid": "u", "generation": 1}
    built = build_job(read({**made, "status": {}}), PLATFORM)
    env = {item["name"]: item for item in built["spec"]["template"]["spec"]["containers"][0]["env"]}

    assert TrialTask.from_json(env[contract.ENV_TRIAL]["value"]) == TrialTask(
        0, ("loss",), 0, "model", "http://hpo-coordinator.team-a.svc:29600", format
    )
    assert env[contract.ENV_SWEEP_TOKEN]["valueFrom"]["secretKeyRef"] == {"name": "hpo-sweep-token", "key": "token"}
    assert TrainingTask.from_json(env[contract.ENV_TASK]["value"]).outputs == {"model": format, "more": ""}


@pytest.mark.attack(
    "training/false-trial",
    asset="another sweep, other Secrets",
    threat="a TrainingJob is made to look like a trial of somebody else's sweep",
    control="where it speaks and with which key follows from its owner's name, in its own namespace; its author "
    "could mount that key anyway",
)
@pytest.mark.parametrize(
    ("owner", "text"),
    [
        ({}, '{"trial": 0, "objectives": ["loss"]}'),
        ({"kind": "Sweep", "apiVersion": "other.dev/v1"}, '{"trial": 0, "objectives": ["loss"]}'),
        ({"kind": "Sweep", "apiVersion": "ultramarine.dev/v1alpha1"}, '{"trial": "0", "objectives": ["loss"]}'),
        ({"kind": "Sweep", "apiVersion": "ultramarine.dev/v1alpha1"}, '{"trial": 0, "objectives": []}'),
        ({"kind": "Sweep", "apiVersion": "ultramarine.dev/v1alpha1"}, "no JSON"),
    ],
)
def test_who_is_no_trial_is_a_job_like_any_other(owner: Manifest, text: str):
    """A TrainingJob that somebody has made by hand is unaffected by an annotation, and by nonsense in it."""
    meta = {"namespace": "team-a", "annotations": {ANNOTATION_TRIAL: text}}
    meta["ownerReferences"] = [{"name": "hpo", "controller": True, **owner}]
    assert task_of({"metadata": meta}) is None


def trial_of(hpo: Obj[Any], status: Manifest | None = None) -> Obj[Any]:
    """The job of a trial, as the API server has it."""
    (made,) = jobs(plan(hpo, running(hpo, wanted=WANTED[:1]))).values()
    made["metadata"] |= {"uid": "TrainingJob-hpo-trial-0-uid", "generation": 1}
    return read({**made, "status": status or {"observedGeneration": -1}})


def test_a_trials_job_says_no_more_than_it_has_to():
    """A trial's begin and approaching end cause no write, since a sweep has many trials. Trouble does."""
    new = trial_of(alone())
    begins = plan_job(new, seen(), NOW)
    assert (begins.status, begins.events) == (new.status, ())
    assert "Job/hpo-trial-0" in kinds_of(begins.apply)

    live, runs = job(new, active=1, startTime="2030-01-01T11:59:58Z"), pod(new, "hpo-trial-0-0-abcde")
    running_now = plan_job(new, seen(live, runs), NOW)
    assert running_now.status["state"] == "Running"
    former = trial_of(alone(), running_now.status)
    heard = replace(seen(live, runs), report=Progress(step=3, metrics={"loss": 0.5}))
    began = parse_timestamp(former.status["startTime"])
    assert plan_job(former, heard, began + timedelta(seconds=9)).status == former.status
    assert plan_job(former, heard, began + timedelta(seconds=11)).status["progress"] == {"step": 3}
    ends = plan_job(former, seen(live, pod(new, "hpo-trial-0-0-abcde", "Succeeded")), NOW)
    assert (ends.status, ends.events) == (former.status, ())

    forged = trial_of(alone(), {"state": "Succeeded"})
    assert plan_job(forged, seen(), NOW).status["state"] == "Pending", "a word of somebody else's does not stay"

    stuck = pod(new, "hpo-trial-0-0-abcde", "Pending")
    wording = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}
    stuck["status"]["conditions"] = [wording]
    assert condition(plan_job(new, seen(live, stuck), NOW), "Running")["reason"] == "Unschedulable"


def test_a_trials_job_says_that_it_runs_together_with_since_when():
    """Its pod may be seen running before its Job is seen started: the two are one write, whichever comes first."""
    new = trial_of(alone())
    live, runs = job(new, active=1, startTime="2030-01-01T11:59:58Z"), pod(new, "hpo-trial-0-0-abcde")
    early = copy.deepcopy(live)
    del early["status"]["startTime"]
    assert plan_job(new, seen(early, runs), NOW).status == new.status
    wording = plan_job(new, seen(live, runs), NOW).status
    assert (wording["state"], wording["activeSince"]) == ("Running", "2030-01-01T11:59:58Z")
    assert plan_job(trial_of(alone(), wording), seen(live, runs), NOW).status == wording


def test_a_trials_job_that_goes_on_says_so():
    """Its sweep would take it for held else, and what was refused for refused."""
    held = {"state": "Suspended", "conditions": [{"type": "Suspended", "status": "True", "reason": "Suspended"}]}
    on = trial_of(alone(), held)
    assert plan_job(on, seen(job(on, active=1)), NOW).status["state"] == "Pending"

    refused = {"state": "Running", "conditions": [{"type": "Reconciled", "status": "False", "reason": "Forbidden"}]}
    again = trial_of(alone(), refused)
    done = pod(again, "hpo-trial-0-0-abcde", "Succeeded")
    assert condition(plan_job(again, seen(job(again), done), NOW), "Reconciled") == {}
