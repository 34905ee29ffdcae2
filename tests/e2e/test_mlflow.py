"""A release with a tracking server of its own: jobs are runs there, and models of its registry come from there."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from conftest import Manifest, Platform, restricted
from manifests import endpoint, infer, onnx_model, training_job
from ultramarine_cluster import images, target

NAMESPACE = "ultramarine-mlflow"
HOST = {"Host": "localhost:5000"}  # as with a port-forward: the server refuses addresses as its name
STEPS = 10

# Fails half way the first time. Between the steps it does what mlflow.log_metric does, which the image lacks.
TRAIN = """
import json, os, sys, urllib.request
step, last = 0, int(sys.argv[2])
if os.path.exists("/mnt/checkpoints/step"):
    step = int(open("/mnt/checkpoints/step").read())
resumed = step > 0
while step < last:
    step += 1
    print(f"step={step} total_steps={last} loss={1 / step}", flush=True)
    if step == last // 2 and not resumed:
        open("/mnt/checkpoints/step", "w").write(str(step))
        sys.exit(3)
metric = {"run_id": os.environ["MLFLOW_RUN_ID"], "key": "own", "value": 7, "timestamp": 1000, "step": 1}
url = os.environ["MLFLOW_TRACKING_URI"] + "/api/2.0/mlflow/runs/log-metric"
headers = {"Content-Type": "application/json"}
urllib.request.urlopen(urllib.request.Request(url, json.dumps(metric).encode(), headers), timeout=30)
open(sys.argv[1] + "/done", "w").write("yes")
"""


# What mlflow.onnx.log_model writes beside the model, as far as serving goes by it.
MLMODEL = b"""flavors:
  onnx:
    data: model.onnx
mlflow_version: 3.17.2
"""


@pytest.fixture(scope="module")
def recorded(platform: Platform, embedded: target.Target) -> Iterator[Platform]:
    """The platform once more, with MLflow, in a namespace of its own."""
    restricted(embedded, NAMESPACE)
    image = target.give_images(embedded, (images.MLFLOW,))[images.MLFLOW]
    values = ("mlflow.embedded.enabled=true", f'mlflow.embedded.image="{image}"')
    try:
        target.install(embedded, NAMESPACE, "crds.install=false", *values)
        yield Platform(embedded, NAMESPACE)
    finally:
        subprocess.run([*embedded.helm, "uninstall", "ultramarine", "--namespace", NAMESPACE], check=False)
        embedded.run("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=120s")


@contextmanager
def tracking(platform: Platform) -> Iterator[httpx.Client]:
    """A client of MLflow's REST API."""
    with (
        platform.target.reach(platform.namespace, "ultramarine-mlflow", 5000) as url,
        httpx.Client(base_url=f"{url}/api/2.0/mlflow", headers=HOST, timeout=30) as client,
    ):
        yield client


def runs(client: httpx.Client, job: str) -> list[Manifest]:
    """The runs that record a job."""
    named = client.get("/experiments/get-by-name", params={"experiment_name": NAMESPACE}).raise_for_status().json()
    wanted = {
        "experiment_ids": [named["experiment"]["experiment_id"]],
        "filter": f"tags.`ultramarine.job` = '{NAMESPACE}/{job}'",
    }
    found: list[Manifest] = client.post("/runs/search", json=wanted).raise_for_status().json().get("runs", [])
    return found


def registered(client: httpx.Client, model: str, files: dict[str, bytes], metrics: dict[str, float]) -> Manifest:
    """A version in MLflow's registry, as log_model makes it: of a run that has logged the files and the metrics."""

    def post(path: str, **body: object) -> Manifest:
        found: Manifest = client.post(path, json=body).raise_for_status().json()
        return found

    run = post("/runs/create", experiment_id="0")["run"]["info"]
    for name, value in metrics.items():
        post("/runs/log-metric", run_id=run["run_id"], key=name, value=value, timestamp=1000, step=0)
    proxy = str(client.base_url).replace("/api/2.0/mlflow", "/api/2.0/mlflow-artifacts/artifacts").rstrip("/")
    folder = run["artifact_uri"].partition(":/")[2].strip("/")
    for name, content in files.items():
        client.put(f"{proxy}/{folder}/model/{name}", content=content).raise_for_status()
    post("/registered-models/create", name=model)
    source = {"source": f"{run['artifact_uri']}/model", "run_id": run["run_id"]}
    version: Manifest = post("/model-versions/create", name=model, **source)["model_version"]
    post("/registered-models/alias", name=model, alias="champion", version=version["version"])
    return version


def importing(name: str, model: str, **output: str) -> Manifest:
    """A TrainingJob that copies a model out of MLflow's registry."""
    command = ["ultramarine-import", model, "$(outputs.model)"]
    return {
        "kind": "TrainingJob",
        "metadata": {"name": name},
        "spec": {"command": command, "outputs": {"model": output}, "backoffLimit": 0},
    }


def test_a_model_is_imported_from_the_registry_and_answers(recorded):
    """By its alias there it becomes a version here, with digest, lineage and the metrics of its run, and is served."""
    with tracking(recorded) as client:
        files = {"MLmodel": MLMODEL, "model.onnx": onnx_model(7)}
        registered(client, "adder", files, {"accuracy": 0.75})
    recorded.apply(importing("import-adder", "models:/adder@champion", registerAs="adder", format="mlflow"))
    status = recorded.ended("import-adder")
    assert status["state"] == "Succeeded", status.get("failure")

    recorded.wait("mv", "adder-1", lambda s: s.get("state") == "Ready")
    spec = recorded.get("mv", "adder-1")["spec"]
    assert spec["format"] == {"name": "mlflow"}
    assert spec["digest"] == status["outputs"]["model"]["digest"]
    assert spec["lineage"] == {"trainingJob": "import-adder", "metrics": {"accuracy": 0.75}}
    recorded.apply(endpoint("adder", "adder@1", authMode="none"))
    recorded.ready("adder", "adder-1")
    with recorded.client("adder", key="none") as client:
        answer = client.post("/v2/models/adder/infer", json=infer([[1.0]]))
    assert answer.json()["outputs"][0]["data"] == [8.0]


def test_a_model_that_the_registry_has_not_is_told_in_its_words(recorded):
    """The failure's last lines have what MLflow answered."""
    recorded.apply(importing("import-nobody", "models:/nobody/1"))
    status = recorded.ended("import-nobody")
    assert status["state"] == "Failed"
    assert "RESOURCE_DOES_NOT_EXIST" in str(status["failure"])


def test_a_job_and_its_retry_are_one_run(recorded):
    """Parameters, every step of both attempts, the command's own metric, the outputs and the end are in it."""
    job = training_job(
        "curve",
        TRAIN,
        command=["python", "train.py", "$(outputs.model)", "$(params.steps)"],
        parameters={"steps": str(STEPS), "lr": "0.1"},
        checkpoint={},
        backoffLimit=1,
    )
    recorded.apply(job)
    status = recorded.ended("curve", 240)
    assert (status["state"], status["attempts"]) == ("Succeeded", 2), status.get("failure")

    with tracking(recorded) as client:
        (run,) = runs(client, "curve")
        run_id = run["info"]["run_id"]
        asked = {"run_id": run_id, "metric_key": "loss"}
        history = client.get("/metrics/get-history", params=asked).raise_for_status().json()["metrics"]
    assert status["mlflow"]["runId"] == run_id
    assert run_id in status["mlflow"]["uri"]
    assert (run["info"]["status"], run["info"]["run_name"]) == ("FINISHED", "curve")
    assert {one["key"]: one["value"] for one in run["data"]["params"]} == {"steps": str(STEPS), "lr": "0.1"}
    assert {one["step"]: one["value"] for one in history} == {step: 1 / step for step in range(1, STEPS + 1)}
    assert {one["key"]: one["value"] for one in run["data"]["metrics"]} == {"loss": 1 / STEPS, "own": 7}
    tags = {one["key"]: one["value"] for one in run["data"]["tags"]}
    assert tags["ultramarine.uid"] == recorded.get("tj", "curve")["metadata"]["uid"]
    assert tags["ultramarine.pod"] == status["pod"]
    assert tags["mlflow.source.type"] == "JOB"
    assert tags["ultramarine.output.model"] == status["outputs"]["model"]["uri"]


def test_a_strangers_name_for_the_server_is_refused(recorded):
    """A page that has its own name resolve to the server, as DNS rebinding does, reads nothing."""
    with tracking(recorded) as client:
        answer = client.get("/experiments/get-by-name", headers={"Host": "stranger.example.com"})
    assert answer.status_code == 403


def test_a_job_does_not_need_mlflow(recorded):
    """While the server is away a job starts, ends well, and says in its log what it misses."""
    recorded.kubectl("scale", "deployment/ultramarine-mlflow", "--replicas=0")
    recorded.kubectl("wait", "pod", "-l", "app.kubernetes.io/component=mlflow", "--for=delete", "--timeout=60s")
    recorded.apply(training_job("alone"))
    status = recorded.ended("alone")
    assert status["state"] == "Succeeded"
    assert status["metrics"]["latest"]["accuracy"] == 1
    assert "mlflow" not in status
    log = recorded.kubectl("logs", status["pod"], "-c", "trainer")
    assert log.count("not wholly recorded in MLflow") == 1
