"""The life of a TrainingJob in one pod: what outlives a pod, what is tried again, what is given up, and who is told."""

from __future__ import annotations

import io
import json

import pyarrow.parquet
import pytest
from conftest import NAMESPACE, Manifest, Platform, condition
from manifests import training_job
from test_storage_lost import KEEP, go_on
from ultramarine_contract.meta import LABEL_NAME

# Counts to its second argument, a step a second, and keeps every sixth in a checkpoint.
COUNT = """
import json, os, sys, time
path, last = "/mnt/checkpoints/state.json", int(sys.argv[2])
step = json.load(open(path))["step"] if os.path.exists(path) else 0
print(f"resumed={step}", flush=True)
while step < last:
    time.sleep(1)
    step += 1
    print(f"step={step} total_steps={last} loss={1 / step}", flush=True)
    if step % 6 == 0:
        with open(path + ".tmp", "w") as file:
            json.dump({"step": step}, file)
        os.replace(path + ".tmp", path)
open(sys.argv[1] + "/steps.txt", "w").write(str(step))
"""
# The first attempt leaves a mark in its checkpoints and ends badly; the next one finds it, and ends well.
ONCE = """
import os, sys, time
if os.path.exists("/mnt/checkpoints/mark"):
    open(sys.argv[1] + "/done", "w").write("yes")
    sys.exit(0)
open("/mnt/checkpoints/mark", "w").write("tried")
time.sleep(1)
sys.exit(9)
"""
EAT = "import sys; block = bytearray(200_000_000); open(sys.argv[1] + '/done', 'w').write(str(len(block)))"
INTRUDE = """
import sys, urllib.error, urllib.request
token = open("/var/run/ultramarine/token").read()
def post(name, token, body=b'{"step": 99}'):
    request = urllib.request.Request(f"{sys.argv[2]}/{name}", body, {"Authorization": f"Bearer {token}"})
    try:
        return urllib.request.urlopen(request, timeout=10).status
    except urllib.error.HTTPError as error:
        return error.code
print("x" * 1_000_000 + " loss=7")
print(f"anothers={post('traveller', token)} nobodys={post('intruder', 'x.y.z')}")
print(f"nonsense={post('intruder', token, b'[]')}")
open(sys.argv[1] + "/done", "w").write("yes")
"""


def pods(platform: Platform, name: str) -> list[Manifest]:
    """The pods of a job that are not on their way out."""
    found = platform.get("pod", "", "-l", f"{LABEL_NAME}={name}")
    return [pod for pod in found if not pod["metadata"].get("deletionTimestamp")]


def evict(platform: Platform, pod: str) -> None:
    """Take a pod away as the drain of a node does."""
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": NAMESPACE}}
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/{pod}/eviction"
    platform.kubectl("create", "--raw", path, "-f", "-", input=json.dumps(body))


def suspend(platform: Platform, name: str, value: bool) -> None:
    """Set spec.suspend."""
    platform.kubectl("patch", "tj", name, "--type=merge", "-p", json.dumps({"spec": {"suspend": value}}))


@pytest.fixture(scope="module")
def traveller(platform: Platform) -> Manifest:
    """The status of a job that was evicted and suspended on its way; it may not fail even once."""
    command = ["python", "train.py", "$(outputs.model)", "44"]
    platform.apply(training_job("traveller", COUNT, command=command, checkpoint={"gracePeriodSeconds": 20}))
    first = platform.wait("tj", "traveller", lambda s: s.get("lastCheckpoint"))
    evict(platform, first["pod"])

    def went_on(status: Manifest) -> bool:
        # A checkpoint of the second pod's own, or a late one of the first, is there for the third.
        latest = (status.get("metrics") or {}).get("latest", {})
        return bool(latest.get("resumed")) and status["lastCheckpoint"]["step"] >= 12

    resumed = platform.wait("tj", "traveller", went_on)
    assert resumed["pod"] != first["pod"]
    assert resumed["lastCheckpoint"]["step"] >= 6
    suspend(platform, "traveller", True)
    held = platform.wait("tj", "traveller", lambda s: s.get("state") == "Suspended" and "activeSince" not in s)
    assert held["activeSeconds"] > 0
    suspend(platform, "traveller", False)
    return platform.ended("traveller")


def test_a_checkpoint_survives_eviction_and_suspension(traveller):
    """Nothing that was kept is computed twice; three pods, none of them a failure."""
    assert traveller["state"] == "Succeeded"
    assert traveller["metrics"]["latest"]["resumed"] >= 12
    history = traveller["attemptHistory"]
    assert len(history) == 3
    assert [entry["reason"] for entry in history][-1] == "Succeeded"
    assert all(entry["endTime"] >= entry["startTime"] for entry in history)
    assert traveller["goodput"]["productiveSeconds"] >= 43
    assert traveller["goodput"]["lostSeconds"] > 0


def test_progress_is_told_while_it_runs(traveller):
    """Steps, their number and the percentage came from what the command printed."""
    assert traveller["progress"]["totalSteps"] == 44
    assert traveller["percent"] == "100%"


def test_logs_outlive_their_pods(platform, traveller):
    """Each pod's whole log is in the storage, under the URI that the status gives."""
    bucket, _, prefix = traveller["logs"]["uri"].removeprefix("s3://").partition("/")
    with platform.target.bucket(NAMESPACE) as storage:
        keys = [entry["Key"] for entry in storage.list_objects_v2(Bucket=bucket, Prefix=prefix)["Contents"]]
        logs = {key: storage.get_object(Bucket=bucket, Key=key)["Body"].read().decode() for key in keys}
    assert {key.removeprefix(prefix).partition("/")[0] for key in keys} == {
        entry["pod"] for entry in traveller["attemptHistory"]
    }
    whole = "".join(logs.values())
    assert all(f"step={step} " in whole for step in range(1, 45))


def test_all_values_of_its_metrics_are_kept(platform, traveller):
    """Each pod's are a Parquet file below the URI that the status gives, and together they have every step."""
    bucket, _, prefix = traveller["metrics"]["uri"].removeprefix("s3://").partition("/")
    with platform.target.bucket(NAMESPACE) as storage:
        keys = [entry["Key"] for entry in storage.list_objects_v2(Bucket=bucket, Prefix=prefix)["Contents"]]
        files = [storage.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys]
    assert set(keys) == {f"{prefix}{entry['pod']}.parquet" for entry in traveller["attemptHistory"]}
    rows = [row for file in files for row in pyarrow.parquet.read_table(io.BytesIO(file)).to_pylist()]
    losses = {row["step"]: row["value"] for row in rows if row["name"] == "loss"}
    assert losses == {step: 1 / step for step in range(1, 45)}
    assert {row["step"] for row in rows if row["name"] == "resumed"} == {None}


def test_another_job_goes_on_from_its_checkpoint(platform, traveller):
    """A new object with resumeFrom starts where the old one's newest checkpoint is."""
    command = ["python", "train.py", "$(outputs.model)", "44"]
    where = {"resumeFrom": traveller["lastCheckpoint"]["uri"]}
    platform.apply(training_job("heir", COUNT, command=command, checkpoint=where))
    assert platform.ended("heir")["metrics"]["latest"]["resumed"] == 42


def test_only_its_own_pod_tells_a_jobs_progress(platform, traveller):
    """Another job's token is refused, and so are nobody's and nonsense; a line of a megabyte is no metric."""
    url = f"http://ultramarine-operator.{NAMESPACE}.svc:8080/progress/{NAMESPACE}"
    platform.apply(training_job("intruder", INTRUDE, command=["python", "train.py", "$(outputs.model)", url]))
    assert platform.ended("intruder")["metrics"]["latest"] == {"anothers": 403, "nobodys": 401, "nonsense": 400}
    assert platform.status("tj", "traveller") == traveller


def test_an_input_is_downloaded_or_streamed(platform):
    """Both are the same data, and the status says how much of it there was."""
    uri = platform.put("rows.csv", b"x,y\n" + b"1,2\n" * 100_000)
    script = """
import sys
import pandas
copied, read = pandas.read_csv(sys.argv[2] + "/rows.csv"), pandas.read_csv(sys.argv[3] + "rows.csv")
print(f"rows={len(read)} same={int(copied.equals(read))}")
copied.describe().to_csv(sys.argv[1] + "/described.csv")
"""
    command = ["python", "train.py", "$(outputs.model)", "$(inputs.copied)", "$(inputs.streamed)"]
    inputs = {"copied": {"uri": uri}, "streamed": {"uri": uri, "mode": "Stream"}}
    platform.apply(training_job("reader", script, command=command, inputs=inputs))
    status = platform.ended("reader")
    assert status["metrics"]["latest"] == {"rows": 100_000, "same": 1}
    assert {name: entry["bytes"] for name, entry in status["inputs"].items()} == {
        "copied": 400_004,
        "streamed": 400_004,
    }
    assert status["inputs"]["copied"]["digest"].startswith("sha256:")


@pytest.mark.attack("author/requester")
def test_who_asked_is_written_down(platform, traveller):
    """The API server's own word for who made the object; nobody can write another name into it later."""
    who = json.loads(platform.kubectl("auth", "whoami", "-o", "json"))["status"]["userInfo"]["username"]
    assert traveller["provenance"]["requestedBy"] == who
    platform.kubectl("annotate", "tj", "traveller", "ultramarine.dev/requested-by=somebody", "--overwrite")
    assert platform.get("tj", "traveller")["metadata"]["annotations"]["ultramarine.dev/requested-by"] == who


def test_each_attempt_leaves_its_provenance(platform, traveller):
    """One in-toto statement for each pod, the last one about the outputs: the image that ran, who asked, command."""
    bucket, _, logs = traveller["logs"]["uri"].removeprefix("s3://").partition("/")
    prefix = logs.removesuffix("logs/") + "attempts/"
    statements = []
    with platform.target.bucket(NAMESPACE) as storage:
        for entry in traveller["attemptHistory"]:
            text = storage.get_object(Bucket=bucket, Key=f"{prefix}{entry['pod']}.json")["Body"].read()
            statements.append(json.loads(text))
    assert [len(statement["subject"]) for statement in statements] == [0, 0, 1]
    digest = traveller["outputs"]["model"]["digest"].removeprefix("sha256:")
    assert statements[-1]["subject"][0]["digest"] == {"sha256": digest}
    build = statements[-1]["predicate"]["buildDefinition"]
    assert build["externalParameters"]["requestedBy"] == traveller["provenance"]["requestedBy"]
    image = build["resolvedDependencies"][0]
    assert image["name"] == "image"
    assert traveller["provenance"]["imageDigest"].endswith(image["digest"]["sha256"])


def test_exit_codes_mean_what_the_policy_says(platform):
    """An ignored exit code costs no retry, and one that fails the job leaves no retry."""
    ignore = {"rules": [{"action": "Ignore", "onExitCodes": {"operator": "In", "values": [9]}}]}
    fail = {"rules": [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [9]}}]}
    platform.apply(
        training_job("ignored", ONCE, checkpoint={}, podFailurePolicy=ignore),
        training_job("final", ONCE, podFailurePolicy=fail, backoffLimit=3, checkpoint={"resume": "Never"}),
    )
    ignored, final = platform.ended("ignored"), platform.ended("final")
    assert ignored["state"] == "Succeeded"
    assert [entry["exitCode"] for entry in ignored["attemptHistory"]] == [9, 0]
    assert (final["state"], final["attempts"]) == ("Failed", 1)
    assert condition(final, "Failed")["reason"] == final["failure"]["reason"] == "CommandFailed"


def test_more_memory_after_too_little(platform):
    """A job that was killed for its memory is tried again with more of it, though it may not fail even once."""
    spec = {"resources": {"limits": {"memory": "128Mi"}}, "onOutOfMemory": {"factor": 3, "maxMemory": "1Gi"}}
    platform.apply(training_job("grows", EAT, **spec))
    status = platform.ended("grows")
    assert (status["state"], status["memory"]) == ("Succeeded", "384Mi")
    assert [entry["reason"] for entry in status["attemptHistory"]] == ["OOMKilled", "Succeeded"]


def test_a_job_without_a_place_is_given_up_in_time(platform):
    """It fails with the scheduler's own words, and its Job does not wait on."""
    platform.apply(training_job("placeless", resources={"requests": {"cpu": "500"}}, pendingDeadlineSeconds=4))
    status = platform.ended("placeless")
    assert status["failure"]["reason"] == "Unschedulable"
    assert "Insufficient cpu" in status["failure"]["message"]
    platform.kubectl("wait", "--for=delete", "job/placeless", "--timeout=180s")


@pytest.mark.slow
def test_affinity_is_the_schedulers_own(platform):
    """Affinity to a label of the node finds it; to another one, it fails in the scheduler's words; a typo is told."""

    def near(value: str, field: str = "requiredDuringSchedulingIgnoredDuringExecution") -> Manifest:
        term = {"matchExpressions": [{"key": "kubernetes.io/os", "operator": "In", "values": [value]}]}
        return {"affinity": {"nodeAffinity": {field: {"nodeSelectorTerms": [term]}}}}

    platform.apply(
        training_job("drawn", podTemplate=near("linux")),
        training_job("astray", podTemplate=near("plan9"), pendingDeadlineSeconds=4),
        training_job("mistyped", podTemplate=near("linux", "requiredDuringScheduling")),
    )
    failure = platform.ended("astray")["failure"]
    assert failure["reason"] == "Unschedulable"
    assert "node affinity" in failure["message"]
    status = platform.wait("tj", "mistyped", lambda s: condition(s, "Reconciled"))
    said = condition(status, "Reconciled")["message"]
    assert 'unknown field "spec.template.spec.affinity.nodeAffinity.requiredDuringScheduling"' in said
    assert platform.ended("drawn")["state"] == "Succeeded"
    platform.delete("tj", "mistyped")


@pytest.mark.slow
def test_the_queue_starts_and_stops_it(platform):
    """Kueue's changes of `suspend` stay, in both directions; spec.suspend gives the place in the queue back."""

    def kueue(value: bool) -> None:
        platform.kubectl("patch", "job", "queued", "--type=merge", "-p", json.dumps({"spec": {"suspend": value}}))

    def is_queued(status: Manifest) -> bool:
        return condition(status, "Running").get("reason") == "Queued"

    job = training_job("queued", KEEP, checkpoint={})
    job["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": "team"}
    platform.apply(job)
    platform.wait("tj", "queued", is_queued)
    assert platform.get("job", "queued")["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team"
    assert pods(platform, "queued") == []
    kueue(False)
    platform.wait("tj", "queued", lambda s: s.get("state") == "Running")
    kueue(True)
    platform.wait("tj", "queued", is_queued)
    assert platform.get("job", "queued")["spec"]["suspend"] is True
    suspend(platform, "queued", True)
    platform.wait("tj", "queued", lambda s: s.get("state") == "Suspended")
    platform.kubectl("wait", "--for=delete", "job/queued", "--timeout=180s")
    suspend(platform, "queued", False)
    platform.wait("tj", "queued", is_queued)
    kueue(False)
    platform.wait("tj", "queued", lambda s: s.get("state") == "Running")
    go_on(platform, "queued")
    assert platform.ended("queued")["state"] == "Succeeded"


def test_deletion_leaves_nothing(platform):
    """A running job that is deleted takes its pod, Job, Service and code along."""
    platform.apply(training_job("unwanted", "import time; time.sleep(600)", nodes=2, framework="none"))
    platform.wait("tj", "unwanted", lambda s: s.get("state") == "Running")
    platform.delete("tj", "unwanted")
    for kind in ("job", "pod", "service", "configmap"):
        platform.kubectl("wait", "--for=delete", kind, "-l", f"{LABEL_NAME}=unwanted", "--timeout=180s")
        assert platform.get(kind, "", "-l", f"{LABEL_NAME}=unwanted") == []
