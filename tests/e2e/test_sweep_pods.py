"""Sweeps with a TrainingJob for each trial on the real cluster: results, early ends, failures, kills, gangs."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from conftest import Platform, condition
from manifests import TRAIN, Manifest, sweep
from test_sweep import EPOCHS, PAUSING, counted, ended
from ultramarine_operator.shared.conditions import ENDED

SLOW = ["sh", "-c", "sleep 2; echo loss=$(params.x)"]


def alone(name: str, command: list[str] | None = None, **spec: Any) -> Manifest:
    """A sweep each of whose trials is a TrainingJob; by default six."""
    limits = {"maxTrials": 6, "parallelTrials": 2, **spec.pop("limits", {})}
    return sweep(name, command, execution="PodPerTrial", limits=limits, **spec)


def of(name: str) -> tuple[str, str]:
    """The words that select a sweep's own children."""
    return "-l", f"ultramarine.dev/kind=Sweep,ultramarine.dev/name={name}"


def jobs(platform: Platform, name: str) -> dict[int, Manifest]:
    """The trials' TrainingJobs by the trials' numbers."""
    items = platform.get("tj", "", *of(name))
    return {int(job["metadata"]["name"].rpartition("-")[2]): job for job in items}


def running(platform: Platform, name: str) -> list[Manifest]:
    """The trials' jobs that run."""
    return [job for job in jobs(platform, name).values() if (job.get("status") or {}).get("state") == "Running"]


def until(seconds: float, is_so: Any, message: str) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, message
        time.sleep(0.3)


def has_ended(job: Manifest) -> bool:
    """True if a trial's job has ended."""
    return (job.get("status") or {}).get("state") in ENDED


def all_ended(platform: Platform, name: str) -> None:
    """Wait until all jobs of a sweep's trials have ended: the last one says so a moment after the sweep."""
    until(180, lambda: all(map(has_ended, jobs(platform, name).values())), "a trial's job has not ended")


def pods_of(platform: Platform, name: str) -> list[Manifest]:
    """The pods of a sweep that have not ended: of its coordinator, and of its trials."""
    items = platform.get("pod", "", "-l", "ultramarine.dev/kind in (Sweep,TrainingJob)")
    return [
        pod
        for pod in items
        if pod["metadata"]["labels"]["ultramarine.dev/name"].startswith(name)
        and pod["status"]["phase"] in ("Pending", "Running")
    ]


def over(status: Manifest) -> int:
    """Return the number of ended trials."""
    counts = status.get("trials") or {}
    return sum(counts.get(word, 0) for word in ("succeeded", "stopped", "failed"))


@pytest.mark.slow
def test_each_trial_is_a_job_and_the_best_is_named(platform: Platform):
    """All trials run, each with its own parameters and log; the sweep says which is best, and keeps the jobs."""
    platform.apply(alone("apart"))
    done = ended(platform, "apart")
    assert done["state"] == "Succeeded", done
    assert done["trials"] == counted(succeeded=6)
    best = done["best"][0]
    assert abs((best["params"]["x"] - 3) ** 2 - best["values"]["loss"]) < 1e-3
    # A trial has ended for its sweep when it has told its result; its pod stores its log after that.
    until(
        180, lambda: all(map(has_ended, jobs(platform, "apart").values())), "the last jobs end soon after their sweep"
    )
    trials = jobs(platform, "apart")
    assert sorted(trials) == list(range(6))
    assert {job["status"]["state"] for job in trials.values()} == {"Succeeded"}
    assert trials[best["trial"]]["spec"]["parameters"] == {"x": repr(best["params"]["x"])}
    assert len(platform.get("job", "", *of("apart"))) == 1, "there are no workers"
    who = json.loads(platform.kubectl("auth", "whoami", "-o", "json"))["status"]["userInfo"]["username"]
    assert {job["status"]["provenance"]["requestedBy"] for job in trials.values()} == {who}, "not the operator"
    platform.delete("sw", "apart")
    until(180, lambda: not jobs(platform, "apart"), "the trials' jobs go with their sweep")


@pytest.mark.slow
def test_trials_that_do_badly_give_up_their_place(platform: Platform):
    """With asha most trials end before their last step, and their jobs are Stopped."""
    steps = "for step in 1 2 3 4 5 6 7 8 9; do echo step=$step loss=$(params.x); sleep 1; done"
    stopping = {"type": "asha", "minSteps": 1, "maxSteps": 9, "reductionFactor": 3}
    platform.apply(alone("asha-apart", ["sh", "-c", steps], limits={"maxTrials": 12}, earlyTermination=stopping))
    done = ended(platform, "asha-apart", 300)
    assert done["state"] == "Succeeded", done
    assert done["trials"]["stopped"] >= 3, done["trials"]
    assert over(done) == 12
    all_ended(platform, "asha-apart")
    states = [job["status"]["state"] for job in jobs(platform, "asha-apart").values()]
    assert states.count("Stopped") == done["trials"]["stopped"]
    assert states.count("Failed") == done["trials"]["failed"]


@pytest.mark.slow
@pytest.mark.exclusive
def test_a_paused_trial_is_a_suspended_job_that_goes_on_from_its_checkpoint(platform: Platform):
    """A trial that asha paused early continues in a new pod if it is among the best.

    No step runs twice, even if the coordinator and the operator are killed meanwhile.
    """
    held: dict[str, Manifest] = {}

    def is_over(status: Manifest) -> bool:
        for number, job in jobs(platform, "paused-apart").items():
            if job["spec"]["suspend"] and job["status"].get("state") == "Suspended":
                held.setdefault(str(number), job)
        return status.get("state") in ("Succeeded", "Failed")

    platform.apply(alone("paused-apart", ["sh", "-c", EPOCHS], **PAUSING))
    platform.wait("sw", "paused-apart", lambda s: is_over(s) or held, 300)
    (pod,) = platform.get("pod", "", *of("paused-apart"))
    platform.kubectl("delete", "pod", pod["metadata"]["name"], "--grace-period=0", "--force", "--wait=false")
    platform.kill_operator()
    done = platform.wait("sw", "paused-apart", is_over, 300)
    assert done["state"] == "Succeeded", done
    assert done["trials"]["stopped"] + done["trials"]["succeeded"] == 9, done["trials"]
    assert done["trials"]["stopped"] >= 3, done["trials"]

    assert all(job["status"]["lastCheckpoint"]["uri"] for job in held.values()), held
    logs = [logged(platform, job) for job in held.values()]
    for lines in logs:
        steps = [line for line in lines if line.startswith("step=")]
        assert len(steps) == len(set(steps)), steps
    begins = [[line.rpartition(" ")[2] for line in lines if " begins after " in line] for lines in logs]
    assert any(len(begin) > 1 and begin[0] == "0" and "0" not in begin[1:] for begin in begins), begins


def logged(platform: Platform, job: Manifest) -> list[str]:
    """Return the output of all pods of a job in the order of their start; output of suspended pods is lost."""
    meta = job["metadata"]
    prefix = f"{meta['namespace']}/trainingjobs/{meta['name']}/{meta['uid']}/logs/"
    with platform.target.bucket(platform.namespace) as storage:
        entries = storage.list_objects_v2(Bucket="ultramarine", Prefix=prefix).get("Contents", [])
        entries.sort(key=lambda entry: entry["LastModified"])
        text = b"".join(storage.get_object(Bucket="ultramarine", Key=entry["Key"])["Body"].read() for entry in entries)
    return text.decode().splitlines()


@pytest.mark.slow
def test_a_trial_that_fails_has_its_own_words(platform: Platform):
    """The canary runs once, since its job has no retries; the sweep's status has its last lines."""
    command = ["sh", "-c", "echo no such data >&2; exit 3"]
    platform.apply(alone("canary-apart", command, canaryTrial=True, template={"backoffLimit": 0}))
    failed = ended(platform, "canary-apart")
    assert failed["state"] == "Failed"
    assert failed["trials"] == counted(failed=1)
    assert "no such data" in failed["failure"]["tail"]
    assert list(jobs(platform, "canary-apart")) == [0]


@pytest.mark.slow
def test_retries_are_the_jobs(platform: Platform):
    """A command that fails once is a trial that succeeds."""
    keep = "echo > $(outputs.mark)/mark; test -e /mnt/checkpoints/once && echo loss=1 && exit 0; "
    command = ["sh", "-c", f"{keep} echo > /mnt/checkpoints/once; sleep 6; exit 3"]
    template = {"backoffLimit": 2, "checkpoint": {}, "outputs": {"mark": {}}}
    platform.apply(alone("tried-again", command, limits={"maxTrials": 1, "parallelTrials": 1}, template=template))
    done = ended(platform, "tried-again")
    assert done["state"] == "Succeeded", done
    assert jobs(platform, "tried-again")[0]["status"]["attempts"] == 2


@pytest.mark.slow
def test_a_pod_that_cannot_start_ends_its_trial_with_the_truth(platform: Platform):
    """An image that does not exist fails the trial with the message of its job, although its pod never started."""
    template = {"image": "localhost/nosuch:1", "pendingDeadlineSeconds": 20}
    platform.apply(alone("imageless", limits={"maxFailedTrials": 1}, template=template))
    failed = ended(platform, "imageless")
    assert failed["state"] == "Failed"
    message = condition(failed, "Failed")["message"]
    assert "nosuch" in message, message
    until(180, lambda: not running(platform, "imageless"), "what still ran of it goes on")


@pytest.mark.slow
@pytest.mark.exclusive
def test_coordinator_operator_and_a_trial_are_killed(platform: Platform):
    """Each finished trial counts once, and runs once; the one whose pod was killed is its job's to begin again."""
    platform.apply(alone("killed-apart", SLOW, limits={"maxTrials": 12}))
    platform.wait("sw", "killed-apart", lambda s: over(s) >= 2)
    (pod,) = platform.get("pod", "", *of("killed-apart"))
    platform.kubectl("delete", "pod", pod["metadata"]["name"], "--grace-period=0", "--force", "--wait=false")
    platform.wait("sw", "killed-apart", lambda s: over(s) >= 5)
    platform.kill_operator()
    platform.wait("sw", "killed-apart", lambda s: over(s) >= 7)
    trials: list[Manifest] = []
    until(180, lambda: trials.extend(running(platform, "killed-apart")) or trials, "no trial runs")
    name = trials[0]["metadata"]["name"]
    platform.kubectl("delete", "pod", "-l", f"ultramarine.dev/name={name}", "--grace-period=0", "--force")
    done = ended(platform, "killed-apart", 300)
    assert done["state"] == "Succeeded", done
    assert done["trials"] == counted(succeeded=12)
    assert sorted(jobs(platform, "killed-apart")) == list(range(12))


@pytest.mark.slow
def test_the_best_trials_model_is_registered(platform: Platform):
    """Of the outputs that the jobs have stored, the best one becomes a version, compiled as the template asks.

    The others become no version.
    """
    script = TRAIN + "\nprint(f'loss={sys.argv[2]}')\n"
    model = {"format": "sklearn", "compile": {"to": "onnx", "onFailure": "Fail"}}
    template = {"source": {"inline": {"train.py": script}}, "outputs": {"model": model}}
    command = ["python", "train.py", "$(outputs.model)", "$(params.x)"]
    platform.apply(alone("best-apart", command, limits={"maxTrials": 3}, template=template, registerBest="found-apart"))
    done = ended(platform, "best-apart")
    assert done["state"] == "Succeeded", done
    assert done["modelVersion"] == "found-apart-1"
    version = platform.get("mv", "found-apart-1")
    all_ended(platform, "best-apart")
    best = jobs(platform, "best-apart")[done["best"][0]["trial"]]
    stored = best["status"]["outputs"]["model"]
    assert (version["spec"]["uri"], version["spec"]["format"]["name"]) == (stored["uri"], "sklearn")
    assert stored["format"] == "sklearn"
    assert done["best"][0]["outputs"] == {"model": stored["uri"]}
    assert [v["metadata"]["name"] for v in platform.get("mv", "") if v["spec"]["model"] == "found-apart"] == [
        "found-apart-1"
    ]
    status = platform.wait("mv", "found-apart-1", lambda s: condition(s, "Ready").get("status") == "True")
    assert status["compiled"]["uri"], status


@pytest.mark.slow
def test_a_sweep_is_made_wider_held_and_resumed(platform: Platform):
    """More trials run at once as soon as that is said; suspended, it has no pods, and what has ended stays ended."""
    platform.apply(alone("wider", SLOW, limits={"maxTrials": 12, "parallelTrials": 1}))
    platform.wait("sw", "wider", lambda s: over(s) >= 1)
    platform.kubectl("patch", "sw", "wider", "--type=merge", "-p", '{"spec": {"limits": {"parallelTrials": 3}}}')
    until(180, lambda: len([j for j in jobs(platform, "wider").values() if not has_ended(j)]) >= 3, "it is not wider")
    platform.kubectl("patch", "sw", "wider", "--type=merge", "-p", '{"spec": {"suspend": true}}')
    platform.wait("sw", "wider", lambda s: s.get("state") == "Suspended")
    until(240, lambda: not pods_of(platform, "wider"), "a suspended sweep still has pods")
    before = {number for number, job in jobs(platform, "wider").items() if has_ended(job)}
    assert all(job["spec"]["suspend"] for number, job in jobs(platform, "wider").items() if number not in before)
    platform.kubectl("patch", "sw", "wider", "--type=merge", "-p", '{"spec": {"suspend": false}}')
    platform.wait("sw", "wider", lambda s: s.get("state") == "Running")
    platform.kubectl("patch", "sw", "wider", "--type=merge", "-p", '{"spec": {"limits": {"parallelTrials": 1}}}')
    done = ended(platform, "wider")
    assert done["state"] == "Succeeded", done
    assert done["trials"] == counted(succeeded=12)
    assert sorted(jobs(platform, "wider")) == list(range(12))


@pytest.mark.slow
def test_a_trial_of_two_nodes(platform: Platform):
    """Each trial is a gang, whose node 0 prints the objective; one that is stopped early stops as a whole."""
    command = ["sh", "-c", "echo rank $NODE_RANK of $NNODES; sleep 1; echo loss=$(params.x)"]
    template = {"nodes": 2, "framework": "none", "backoffLimit": 0}
    platform.apply(alone("gangs", command, limits={"maxTrials": 2, "parallelTrials": 1}, template=template))
    done = ended(platform, "gangs")
    assert done["state"] == "Succeeded", done
    assert done["trials"] == counted(succeeded=2)

    forever = ["sh", "-c", "echo loss=$(params.x); if [ $NODE_RANK = 0 ]; then sleep 30; exit 0; fi; sleep 600"]
    limits = {"maxTrials": 1, "parallelTrials": 1, "trialTimeoutSeconds": 3}
    platform.apply(alone("gang-late", forever, limits=limits, template=template))
    failed = ended(platform, "gang-late")
    assert (failed["state"], failed["trials"]) == ("Failed", counted(failed=1)), failed
    job = platform.wait("tj", "gang-late-trial-0", lambda s: s.get("state") == "Failed")  # when both pods have ended
    assert job["failure"]["reason"] == "TrialTimeout"
    until(180, lambda: not pods_of(platform, "gang-late"), "the other node goes on")
