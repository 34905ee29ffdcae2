"""A Sweep's life before a real API server, with the real operator, which is killed on the way."""

from __future__ import annotations

from bare import Api, eventually
from builders import searching
from operator_process import Node, Operator
from speaking import end, is_in
from stories import status, there, versions, wait_until_quiet
from ultramarine_contract.meta import Manifest

TRIAL = {"command": ["python", "train.py", "--lr=$(params.lr)"], "outputs": {"model": {}}}


def hpo(**spec: object) -> Manifest:
    """A Sweep whose best trial becomes a version of the Model churn."""
    return searching("hpo", registerBest="churn", trialTemplate={"spec": TRIAL}, **spec)


def test_a_sweep_goes_from_pending_to_a_model_version(api: Api, operator: Operator, node: Node) -> None:
    """A Sweep makes coordinator and workers, ends by what is stored, and registers its best trial once."""
    api.apply(hpo())
    eventually("it is pending", lambda: is_in(api, "Pending"))
    for name in ("hpo-coordinator", "hpo-workers"):
        node.start_pod(name)
    eventually("it runs", lambda: is_in(api, "Running"))
    secret = api.get("secret", "hpo-sweep-token")
    assert (list(secret["data"]), secret["metadata"]["ownerReferences"][0]["kind"]) == (["token"], "Sweep")
    operator.kill()
    end(api, node)
    operator.start()
    assert "condition met" in api.run("wait", "--for=condition=Succeeded", "sw/hpo", "--timeout=120s")

    told = status(api, "sw", "hpo")
    assert (told["modelVersion"], told["bestValue"], told["progress"]) == ("churn-1", "0.25", "10/10")
    assert versions(api, "churn") == ["churn-1"]
    made = api.get("mv", "churn-1")
    assert made["spec"]["lineage"] == {"sweep": "hpo", "trial": 3, "metrics": {"loss": 0.25}}
    # In the foreground: here nobody collects its pod.
    eventually("the workers go", lambda: "deletionTimestamp" in api.get("job", "hpo-workers")["metadata"])
    assert api.get("secret", "hpo-sweep-token")["data"] == secret["data"], "it was made once"


def test_a_sweep_follows_its_author(api: Api, operator: Operator, node: Node) -> None:
    """Number of workers and suspension are followed while it runs; what hands spoil is restored; then it is quiet."""
    api.apply(hpo())
    for name in ("hpo-coordinator", "hpo-workers"):
        node.start_pod(name)
    eventually("it runs", lambda: is_in(api, "Running"))

    def workers() -> Manifest:
        return dict(api.get("job", "hpo-workers")["spec"])

    api.apply(hpo(limits={"maxTrials": 10, "parallelTrials": 5}))
    eventually("there are more workers", lambda: (workers()["parallelism"], workers()["completions"]) == (5, 5))
    api.apply(hpo(limits={"maxTrials": 10, "parallelTrials": 1}, suspend=True))
    eventually("there are fewer", lambda: (workers()["parallelism"], workers()["completions"]) == (1, 1))
    eventually("all is held", lambda: all(job["spec"]["suspend"] for job in api.all("jobs")))
    eventually("it says so", lambda: is_in(api, "Suspended"))
    api.apply(hpo(limits={"maxTrials": 10, "parallelTrials": 1}))
    eventually("all goes on", lambda: not any(job["spec"]["suspend"] for job in api.all("jobs")))

    uid = node.job_of("hpo-coordinator")["metadata"]["uid"]
    api.run("delete", "job/hpo-coordinator", "service/hpo-coordinator", "--wait=false")
    eventually("the Service is back", lambda: there(api, "services", "hpo-coordinator"))
    eventually("the Job is back", lambda: node.job_of("hpo-coordinator")["metadata"]["uid"] != uid)
    eventually("the generation is told", lambda: status(api, "sw", "hpo")["observedGeneration"] == 4)

    wait_until_quiet(api, operator)
    operator.stop()
    operator.start()
    eventually("passes over it", lambda: operator.passes("Sweep") >= 1)
    api.run("label", "sw/hpo", "colour=red")
    eventually("a pass over the touched one", lambda: operator.passes("Sweep") >= 2)
    assert operator.writes() == {}


def test_a_search_that_cannot_be_says_so(api: Api, operator: Operator) -> None:
    """An error that the API server cannot detect, such as a value given twice, is in the condition Accepted."""
    api.apply(searching("hpo", searchSpace={"lr": {"choice": ["a", "a"]}}))
    eventually("it is invalid", lambda: is_in(api, "Invalid"))

    (accepted,) = (c for c in status(api, "sw", "hpo")["conditions"] if c["type"] == "Accepted")
    assert (accepted["status"], "spec.searchSpace.lr" in accepted["message"]) == ("False", True)
    assert api.all("jobs", "secrets") == []
    api.run("wait", "--for=condition=Failed", "sw/hpo", "--timeout=120s")
