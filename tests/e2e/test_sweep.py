"""Sweeps on the real cluster: trials in a pool of workers, a coordinator that may die, a best model that is served."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import yaml
from conftest import condition
from manifests import Manifest, endpoint, infer, sweep
from ultramarine_cluster.paths import REPOSITORY


def counted(**trials: int) -> Manifest:
    """Return trials as a status counts them."""
    return dict.fromkeys(("running", "succeeded", "stopped", "failed"), 0) | trials


def ended(platform: Any, name: str, seconds: float = 300) -> Manifest:
    """Wait for a sweep's end."""
    return platform.wait("sw", name, lambda s: s.get("state") in ("Succeeded", "Failed"), seconds)


def stored(platform: Any, uri: str) -> str:
    """A text in the bucket."""
    with platform.target.bucket(platform.namespace) as storage:
        key = uri.removeprefix("s3://ultramarine/")
        return str(storage.get_object(Bucket="ultramarine", Key=key)["Body"].read().decode())


def test_a_sweep_runs_all_trials_in_a_pool_and_names_the_best(platform):
    """Twenty trials run in two worker pods; status and columns have the best, and objects do not grow with trials."""
    platform.apply(sweep("pooled"))
    done = ended(platform, "pooled")
    assert done["state"] == "Succeeded", done
    assert done["trials"] == counted(succeeded=20)
    best = done["best"][0]
    losses = [trial["values"]["loss"] for trial in done["best"]]
    assert losses == sorted(losses)
    assert abs((best["params"]["x"] - 3) ** 2 - losses[0]) < 1e-3
    assert len(done["best"]) == 10

    pods = platform.get("pod", "", "-l", "ultramarine.dev/kind=Sweep,ultramarine.dev/name=pooled")
    assert len(pods) == 3, [pod["metadata"]["name"] for pod in pods]
    platform.kubectl("wait", "--for=condition=Succeeded", "sw/pooled", "--timeout=60s")
    line = next(line for line in platform.kubectl("get", "sw").splitlines() if line.startswith("pooled"))
    assert "Succeeded" in line
    assert "20/20" in line


@pytest.mark.slow
def test_a_finished_sweep_goes_after_its_time_and_its_results_stay(platform):
    """With ttlSecondsAfterFinished object, Jobs and pods go by themselves; what is in the bucket stays."""
    platform.apply(sweep("passing", limits={"maxTrials": 10, "parallelTrials": 2}))
    done = ended(platform, "passing")
    assert done["state"] == "Succeeded", done
    folder = done["journal"]["uri"].removeprefix("s3://ultramarine/").removesuffix("journal/")
    platform.kubectl("patch", "sw", "passing", "--type=merge", "-p", '{"spec": {"ttlSecondsAfterFinished": 1}}')
    selector = "ultramarine.dev/kind=Sweep,ultramarine.dev/name=passing"
    end = time.monotonic() + 180
    while platform.get("sw", "", "--field-selector=metadata.name=passing") or platform.get("job", "", "-l", selector):
        assert time.monotonic() < end, "it is still there"
        time.sleep(0.5)
    with platform.target.bucket(platform.namespace) as storage:
        stored = storage.list_objects_v2(Bucket="ultramarine", Prefix=folder).get("Contents", [])
    names = {entry["Key"].removeprefix(folder) for entry in stored}
    assert {"summary.json", "report.html", "trials.parquet", "optuna-journal.log"} <= names, names
    assert {"pictures/history.png", "pictures/history.svg"} <= names, names
    assert done["report"]["uri"] == f"s3://ultramarine/{folder}report.html", done


@pytest.mark.slow
def test_a_seed_gives_the_same_trials_again(platform):
    """A sweep with the same seed under another name finds the same best parameters."""
    platform.apply(sweep("again", limits={"maxTrials": 5}), sweep("once-more", limits={"maxTrials": 5}))
    first, second = (ended(platform, name)["best"] for name in ("again", "once-more"))
    assert [trial["params"] for trial in first] == [trial["params"] for trial in second]


@pytest.mark.exclusive
@pytest.mark.slow
def test_coordinator_worker_and_operator_are_killed_and_no_trial_is_lost(platform):
    """Each finished trial counts once, whatever was killed meanwhile."""
    slow = ["sh", "-c", "sleep 1; echo loss=$(params.x)"]
    platform.apply(sweep("killed", slow, limits={"maxTrials": 30}))
    platform.wait("sw", "killed", lambda s: (s.get("trials") or {}).get("succeeded", 0) >= 3)
    selector = "ultramarine.dev/kind=Sweep,ultramarine.dev/name=killed"
    for part in ("coordinator", "workers"):
        pods = [p["metadata"]["name"] for p in platform.get("pod", "", "-l", selector)]
        victim = next(name for name in pods if f"-{part}" in name)
        platform.kubectl("delete", "pod", victim, "--grace-period=0", "--force", "--wait=false")
        time.sleep(3)
    platform.kill_operator()
    done = ended(platform, "killed", 300)
    assert done["state"] == "Succeeded", done
    assert done["trials"] == counted(succeeded=30)


@pytest.mark.slow
def test_a_metric_that_no_trial_prints_fails_the_sweep_with_the_names_that_were_seen(platform):
    """The first trial ends well without the objective: the sweep fails, and says what was printed instead."""
    platform.apply(sweep("unknown-metric", ["sh", "-c", "echo los=1 accuracy=0.5"], canaryTrial=True))
    failed = ended(platform, "unknown-metric")
    assert failed["state"] == "Failed"
    message = condition(failed, "Failed")["message"]
    for word in ("loss", "los", "accuracy"):
        assert word in message, message


def test_a_canary_that_fails_stops_the_sweep(platform):
    """A command that cannot work runs once, not twenty times; its own words are in the status."""
    platform.apply(sweep("canary", ["sh", "-c", "echo no such data >&2; exit 3"], canaryTrial=True))
    failed = ended(platform, "canary")
    assert failed["state"] == "Failed"
    assert failed["trials"] == counted(failed=1)
    assert "no such data" in failed["failure"]["tail"]


@pytest.mark.slow
def test_trials_that_do_badly_are_stopped_early(platform):
    """With asha most trials end before their last step, and the best is still found."""
    steps = "for step in 1 2 3 4 5 6 7 8 9; do echo step=$step loss=$(params.x); sleep 0.2; done"
    stopping = {"type": "asha", "minSteps": 1, "maxSteps": 9, "reductionFactor": 3}
    platform.apply(sweep("asha", ["sh", "-c", steps], limits={"maxTrials": 12}, earlyTermination=stopping))
    done = ended(platform, "asha")
    assert done["state"] == "Succeeded", done
    assert done["trials"]["stopped"] >= 3, done["trials"]
    assert done["trials"]["stopped"] + done["trials"]["succeeded"] == 12
    head, line = platform.kubectl("get", "sw", "asha").splitlines()
    assert dict(zip(head.split(), line.split(), strict=True))["STOPPED"] == str(done["trials"]["stopped"])
    page = stored(platform, done["report"]["uri"])
    counts = f"{done['trials']['succeeded']} succeeded, {done['trials']['stopped']} stopped early"
    for part in (counts, "Learning curves", "When trials ran", "Search space", "Stopped early", "<th>duration</th>"):
        assert part in page, part


# A trial saves its checkpoint before it reports the step.
EPOCHS = """
epoch=$(cat /mnt/checkpoints/epoch 2>/dev/null || echo 0)
echo "trial $(params.x) begins after $epoch"
while [ $epoch -lt 9 ]; do
  epoch=$((epoch + 1))
  echo $epoch > /mnt/checkpoints/epoch.tmp
  mv /mnt/checkpoints/epoch.tmp /mnt/checkpoints/epoch
  echo step=$epoch loss=$(params.x)
  sleep 1
done
"""


# A sweep of those epochs, some of whose trials are paused.
PAUSING: dict[str, Any] = {
    "algorithm": {"type": "grid", "seed": 7},  # 9, 1, 8, 2, ...: the fourth one is the second best of all
    "searchSpace": {"x": {"int": {"min": 1, "max": 9}}},
    "earlyTermination": {"type": "asha", "minSteps": 1, "maxSteps": 9, "reductionFactor": 3},
    "limits": {"maxTrials": 9},
    "template": {"checkpoint": {}},
}


@pytest.mark.slow
def test_a_paused_trial_goes_on_from_its_checkpoint(platform):
    """A trial that asha pauses early resumes if it is among the best later: from the step
    that it had come to, so no step is run twice."""
    platform.apply(sweep("paused", ["sh", "-c", EPOCHS], **PAUSING))
    done = ended(platform, "paused")
    assert done["state"] == "Succeeded", done
    assert done["trials"]["stopped"] + done["trials"]["succeeded"] == 9, done["trials"]
    assert done["trials"]["stopped"] >= 3, done["trials"]

    selector = "ultramarine.dev/kind=Sweep,ultramarine.dev/name=paused"
    lines = platform.kubectl("logs", "-l", selector, "--tail=-1").splitlines()
    begins = [line.split()[1::3] for line in lines if " begins after " in line]
    assert sorted(x for x, after in begins if after == "0") == list("123456789"), begins
    assert [after for x, after in begins if x == "2" and after != "0"], begins
    steps = [line for line in lines if line.startswith("step=")]
    assert len(steps) == len(set(steps)), sorted(steps)
    assert any("goes on from s3://" in line for line in lines)
    folder = done["journal"]["uri"].removeprefix("s3://ultramarine/").removesuffix("journal/") + "trials/"
    with platform.target.bucket(platform.namespace) as storage:
        assert "Contents" not in storage.list_objects_v2(Bucket="ultramarine", Prefix=folder), "checkpoints stay"


@pytest.mark.slow
def test_a_sweep_is_suspended_resumed_and_made_wider(platform):
    """Suspended it has no pods and loses nothing; parallelTrials may change while it runs, both ways."""
    slow = ["sh", "-c", "sleep 1; echo loss=$(params.x)"]
    platform.apply(sweep("held", slow, limits={"maxTrials": 24, "parallelTrials": 1}))
    platform.wait("sw", "held", lambda s: (s.get("trials") or {}).get("succeeded", 0) >= 1)
    platform.kubectl("patch", "sw", "held", "--type=merge", "-p", '{"spec": {"suspend": true}}')
    platform.wait("sw", "held", lambda s: s.get("state") == "Suspended")
    selector = "ultramarine.dev/kind=Sweep,ultramarine.dev/name=held"
    end = time.monotonic() + 240
    while platform.get("pod", "", "-l", selector):
        assert time.monotonic() < end, "a suspended sweep still has pods"
        time.sleep(0.5)
    patch = '{"spec": {"suspend": false, "limits": {"parallelTrials": 2}}}'
    platform.kubectl("patch", "sw", "held", "--type=merge", "-p", patch)
    platform.wait("sw", "held", lambda s: condition(s, "Running").get("message", "").startswith("2 of 2 workers run"))
    assert platform.get("job", "held-workers")["spec"]["completions"] == 2
    patch = '{"spec": {"limits": {"parallelTrials": 1}}}'
    platform.kubectl("patch", "sw", "held", "--type=merge", "-p", patch)
    done = ended(platform, "held")
    assert done["state"] == "Succeeded", done
    assert done["trials"] == counted(succeeded=24)
    assert platform.get("job", "held-workers")["spec"]["completions"] == 1


@pytest.mark.slow
def test_a_queue_lets_the_workers_in(platform):
    """Kueue's changes of the workers' `suspend` stay, in both directions; a suspended sweep gives its place back."""

    def kueue(value: bool) -> None:
        patch = json.dumps({"spec": {"suspend": value}})
        platform.kubectl("patch", "job", "lined-up-workers", "--type=merge", "-p", patch)

    def is_queued(status: Manifest) -> bool:
        return condition(status, "Running").get("reason") == "Queued"

    slow = ["sh", "-c", "sleep 2; echo loss=$(params.x)"]
    manifest = sweep("lined-up", slow, limits={"maxTrials": 12})
    manifest["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": "team"}
    platform.apply(manifest)
    platform.wait("sw", "lined-up", is_queued)
    assert platform.get("job", "lined-up-workers")["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team"
    kueue(False)
    platform.wait("sw", "lined-up", lambda s: s.get("state") == "Running")
    kueue(True)
    platform.wait("sw", "lined-up", is_queued)
    platform.kubectl("patch", "sw", "lined-up", "--type=merge", "-p", '{"spec": {"suspend": true}}')
    platform.wait("sw", "lined-up", lambda s: s.get("state") == "Suspended")
    platform.kubectl("wait", "--for=delete", "job/lined-up-workers", "--timeout=180s")
    platform.kubectl("patch", "sw", "lined-up", "--type=merge", "-p", '{"spec": {"suspend": false}}')
    platform.wait("sw", "lined-up", is_queued)
    kueue(False)
    done = ended(platform, "lined-up")
    assert done["trials"] == counted(succeeded=12), done


@pytest.mark.slow
def test_the_examples_best_model_is_registered_and_served(platform):
    """examples/sweep on the quickstart's kind of data ends in a registered model that an endpoint serves."""
    from sklearn.datasets import load_breast_cancer

    features, answers = load_breast_cancer(return_X_y=True, as_frame=True)
    uri = platform.put("tuned/train.csv", features.assign(target=answers).to_csv(index=False).encode())
    document = yaml.safe_load((REPOSITORY / "examples" / "sweep" / "sweep.yaml").read_text())
    document["spec"]["trialTemplate"]["spec"]["inputs"]["data"]["uri"] = uri
    document["spec"]["limits"]["maxTrials"] = 6
    # PyYAML takes 1e-3, as JSON and YAML 1.2 write it, for a text.
    document["spec"]["searchSpace"]["regularization"]["logUniform"]["min"] = 0.001
    platform.apply({**document, "metadata": {"name": "tuned"}}, endpoint("tuned", "breast-cancer-tuned@latest"))
    done = ended(platform, "tuned")
    assert done["state"] == "Succeeded", done
    assert done["best"][0]["modelVersion"] == "breast-cancer-tuned-1"
    assert done["best"][0]["values"]["cv_accuracy"] > 0.9
    platform.ready("tuned", "breast-cancer-tuned-1")
    row = features.to_numpy()[:1].tolist()
    with platform.client("tuned") as client:
        answer = client.post("/v2/models/breast-cancer-tuned/infer", json=infer(row, "input", "FP64"))
    assert answer.status_code == 200, answer.text
    assert {o["name"]: o["data"] for o in answer.json()["outputs"]}["predict"] == [answers[0]]


@pytest.mark.slow
def test_a_format_that_files_do_not_tell_is_named_in_the_template(platform):
    """The best trial's folder becomes a version of format python, which no file says of itself."""
    code = "printf 'class Model: ...' > $(outputs.model)/model.py; echo loss=$(params.x)"
    template = {"outputs": {"model": {"format": "python"}}}
    command = ["sh", "-c", code]
    platform.apply(sweep("coded", command, limits={"maxTrials": 3}, template=template, registerBest="written"))
    done = ended(platform, "coded")
    assert (done["state"], done["modelVersion"]) == ("Succeeded", "written-1"), done
    version = platform.get("mv", "written-1")["spec"]
    assert version["format"] == {"name": "python"}
    assert done["best"][0]["outputs"] == {"model": version["uri"]}


@pytest.mark.slow
def test_what_former_best_trials_have_stored_is_deleted_at_the_end(platform):
    """Each trial is better than the one before and stores its output; at the end ten have theirs."""
    better = "sleep 1; echo loss=-`date +%s`; echo $(params.x) > $(outputs.model)/x"
    limits, outputs = {"maxTrials": 13, "parallelTrials": 1}, {"outputs": {"model": {}}}
    platform.apply(sweep("improving", ["sh", "-c", better], limits=limits, template=outputs))
    done = ended(platform, "improving")
    assert done["state"] == "Succeeded", done
    folder = done["journal"]["uri"].removeprefix("s3://ultramarine/").removesuffix("journal/") + "trials/"
    with platform.target.bucket(platform.namespace) as storage:
        stored = storage.list_objects_v2(Bucket="ultramarine", Prefix=folder).get("Contents", [])
    numbers = {entry["Key"].removeprefix(folder).partition("/")[0] for entry in stored}
    assert numbers == {str(trial["trial"]) for trial in done["best"]}
    assert len(numbers) == 10
