"""Jobs of several nodes: they start together, start again together, and say who was the cause."""

from __future__ import annotations

import pytest
from conftest import Platform, condition
from manifests import training_job
from test_training_life import evict, pods

# Two nodes meet, and count together: each step both say over TCP where they are, so neither gets far without the other.
TOGETHER = """
import json, os, socket, sys, time
rank, world = int(os.environ["NODE_RANK"]), int(os.environ["NNODES"])
path = "/mnt/checkpoints/state.json"
step = json.load(open(path))["step"] if os.path.exists(path) else 0
# "evicted": it counts until a pod is taken away, and a few steps more after that.
last = int(sys.argv[2]) if sys.argv[2] != "evicted" else step + 6 if step else 10**6
print(f"resumed={step} world={world}", flush=True)
if world > 1:
    address = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
    if rank == 0:
        server = socket.create_server(("", address[1]))
        other = server.accept()[0]
    else:
        while True:
            try:
                other = socket.create_connection(address, 2)
                break
            except OSError:
                time.sleep(0.2)
while step < last:
    time.sleep(1)
    step += 1
    if world > 1:
        other.sendall(bytes([step]))
        assert other.recv(1) == bytes([step]), "the other node is somewhere else, or gone"
    if len(sys.argv) > 3 and rank == 1 and step == 17 and not os.path.exists("/mnt/checkpoints/mark"):
        sys.exit(7)
    print(f"step={step} total_steps={last}", flush=True)
    if rank == 0 and step % 6 == 0:
        if step > 6:
            open("/mnt/checkpoints/mark", "w").write("")
        with open(path + ".tmp", "w") as file:
            json.dump({"step": step}, file)
        os.replace(path + ".tmp", path)
open(sys.argv[1] + "/steps.txt", "w").write(str(step))
"""


def gang(name: str, *words: str, **spec):
    """Two nodes that count together."""
    whole = {"framework": "none", "nodes": 2, "checkpoint": {"gracePeriodSeconds": 15}, **spec}
    return training_job(name, TOGETHER, command=["python", "train.py", "$(outputs.model)", *words], **whole)


def test_a_lost_node_comes_back(platform: Platform):
    """A pod is evicted: the other one stays, both go on from the checkpoint, and nothing counts as a failure."""
    platform.apply(gang("reunion", "evicted"))
    platform.wait("tj", "reunion", lambda s: s.get("lastCheckpoint"))
    before = {pod["metadata"]["name"].rsplit("-", 1)[0]: pod["metadata"]["name"] for pod in pods(platform, "reunion")}
    evict(platform, before["reunion-1"])
    status = platform.ended("reunion")
    assert status["state"] == "Succeeded"
    assert status["metrics"]["latest"]["resumed"] >= 6
    assert status["metrics"]["latest"]["world"] == 2
    assert [entry["pod"] for entry in status["attemptHistory"] if not entry.get("node")] == [before["reunion-0"]]


@pytest.mark.slow
def test_a_failed_node_is_the_cause_and_is_tried_again(platform: Platform):
    """One node's command fails: that pod counts, the other one only follows, and all start again."""
    platform.apply(gang("stumble", "22", "stumble", backoffLimit=1))
    status = platform.ended("stumble")
    assert status["state"] == "Succeeded"
    failed = [entry for entry in status["attemptHistory"] if entry["reason"] != "Succeeded"]
    assert [(entry["node"], entry["exitCode"]) for entry in failed] == [(1, 7)]


@pytest.mark.slow
def test_a_failed_node_ends_the_job_when_no_retry_is_left(platform: Platform):
    """The failure names the node's pod, its exit code and its last words; no pod is left running."""
    platform.apply(gang("broken-gang", "22", "stumble", checkpoint={"resume": "Never"}))
    status = platform.ended("broken-gang")
    assert status["state"] == "Failed"
    assert (status["failure"]["exitCode"], status["failure"]["pod"].startswith("broken-gang-1-")) == (7, True)
    platform.wait(
        "tj",
        "broken-gang",
        lambda _: all(pod["status"]["phase"] != "Running" for pod in pods(platform, "broken-gang")),
    )


@pytest.mark.slow
def test_a_rank_that_never_starts_is_waited_for_so_long_only(platform: Platform):
    """One pod has a place and waits, the other has none: after pendingDeadlineSeconds the scheduler's words end it."""
    platform.apply(gang("half", "5", resources={"requests": {"cpu": "1100m"}}, pendingDeadlineSeconds=20))
    waiting = platform.wait("tj", "half", lambda s: condition(s, "Running").get("reason") == "Unschedulable")
    assert waiting["state"] == "Pending"
    status = platform.ended("half")
    assert (status["state"], status["failure"]["reason"]) == ("Failed", "Unschedulable")
    platform.kubectl("wait", "--for=delete", "job/half", "--timeout=180s")


@pytest.mark.slow
def test_an_elastic_job_goes_on_with_fewer_nodes(platform: Platform):
    """There is room for one of two: it trains alone rather than not at all."""
    platform.apply(gang("smaller", "8", resources={"requests": {"cpu": "1100m"}}, elastic={"minNodes": 1}))
    status = platform.ended("smaller")
    assert status["state"] == "Succeeded"
    assert status["metrics"]["latest"]["world"] == 1
