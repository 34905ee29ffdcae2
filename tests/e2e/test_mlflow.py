"""A release with a tracking server of its own: jobs and sweeps are runs there, and its models come from there."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from conftest import Manifest, Platform, restricted
from manifests import endpoint, infer, onnx_model, sweep, training_job
from person import Person
from ultramarine_cluster import images, target
from ultramarine_contract.meta import ANNOTATION_REQUESTED_BY
from ultramarine_contract.routes import MLFLOW_FORWARD_PORT

pytestmark = pytest.mark.slow

NAMESPACE, OTHER = "ultramarine-mlflow", "ultramarine-mlflow-other"
HOST = {"Host": "localhost:5000"}  # as with a port-forward: the server refuses addresses as its name
STEPS = 10

# Fails half way the first time. At the end mlflow's own client logs to the run of the job.
TRAIN = """
import os, sys
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
import mlflow
mlflow.autolog()
with mlflow.start_run():
    mlflow.log_metric("own", 7)
    from sklearn.linear_model import LogisticRegression
    LogisticRegression(C=0.25).fit([[0.0], [1.0], [2.0], [3.0]], [0, 0, 1, 1])
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
    """The platform once more, with MLflow, in a namespace of its own, and for a second one."""
    restricted(embedded, NAMESPACE)
    restricted(embedded, OTHER)
    image = target.give_images(embedded, (images.MLFLOW,))[images.MLFLOW]
    listed = f'namespaces=["{OTHER}"]'
    values = (listed, "mlflow.embedded.enabled=true", f'mlflow.embedded.image="{image}"')
    try:
        target.install(embedded, NAMESPACE, "crds.install=false", *values)
        yield Platform(embedded, NAMESPACE)
    finally:
        subprocess.run([*embedded.helm, "uninstall", "ultramarine", "--namespace", NAMESPACE], check=False)
        embedded.run("delete", "namespace", NAMESPACE, OTHER, "--ignore-not-found", "--timeout=300s")


@contextmanager
def tracking(platform: Platform, account: tuple[str, str] | None = None) -> Iterator[httpx.Client]:
    """A client of MLflow's REST API, with the namespace's account or another one."""
    if account is None:
        own = platform.secret("ultramarine-mlflow")
        account = (own["MLFLOW_TRACKING_USERNAME"], own["MLFLOW_TRACKING_PASSWORD"])
    with (
        platform.target.reach(NAMESPACE, "ultramarine-mlflow", 5000) as url,
        httpx.Client(base_url=f"{url}/api/2.0/mlflow", headers=HOST, timeout=60, auth=account) as client,
    ):
        yield client


def experiment_of(client: httpx.Client) -> Manifest:
    """The experiment of the release's namespace."""
    named = client.get("/experiments/get-by-name", params={"experiment_name": NAMESPACE})
    experiment: Manifest = named.raise_for_status().json()["experiment"]
    return experiment


def runs(client: httpx.Client, name: str, tag: str = "ultramarine.job") -> list[Manifest]:
    """The runs that record a job, or with its tag a sweep."""
    wanted = {
        "experiment_ids": [experiment_of(client)["experiment_id"]],
        "filter": f"tags.`{tag}` = '{NAMESPACE}/{name}'",
    }
    found: list[Manifest] = client.post("/runs/search", json=wanted).raise_for_status().json().get("runs", [])
    return found


def history(client: httpx.Client, run_id: str, name: str) -> list[Manifest]:
    """All values of a run's metric."""
    asked = {"run_id": run_id, "metric_key": name}
    found: list[Manifest] = (
        client.get("/metrics/get-history", params=asked).raise_for_status().json().get("metrics", [])
    )
    return found


def without_server(platform: Platform) -> None:
    """Take MLflow away."""
    platform.kubectl("scale", "deployment/ultramarine-mlflow", "--replicas=0")
    platform.kubectl("wait", "pod", "-l", "app.kubernetes.io/component=mlflow", "--for=delete", "--timeout=240s")


def artifacts_of(client: httpx.Client, run: Manifest) -> str:
    """Return the address at which the server hands out the files of a run."""
    proxy = str(client.base_url).replace("/api/2.0/mlflow", "/api/2.0/mlflow-artifacts/artifacts").rstrip("/")
    return f"{proxy}/{run['artifact_uri'].partition(':/')[2].strip('/')}"


def permissions(client: httpx.Client) -> str:
    """Return the address of the server's permissions."""
    return str(client.base_url).replace("/api/2.0/mlflow/", "/api/3.0/mlflow/users/permissions")


def registered(client: httpx.Client, model: str, files: dict[str, bytes], metrics: dict[str, float]) -> Manifest:
    """A version in MLflow's registry, as log_model makes it: of a run that has logged the files and the metrics."""

    def post(path: str, **body: object) -> Manifest:
        found: Manifest = client.post(path, json=body).raise_for_status().json()
        return found

    run = post("/runs/create", experiment_id=experiment_of(client)["experiment_id"])["run"]["info"]
    for name, value in metrics.items():
        post("/runs/log-metric", run_id=run["run_id"], key=name, value=value, timestamp=1000, step=0)
    for name, content in files.items():
        client.put(f"{artifacts_of(client, run)}/model/{name}", content=content).raise_for_status()
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
    who = recorded.get("tj", "import-adder")["metadata"]["annotations"][ANNOTATION_REQUESTED_BY]
    lineage = {"trainingJob": "import-adder", "metrics": {"accuracy": 0.75}, "requestedBy": who}
    assert spec["lineage"] == {**lineage, "mlflow": status["mlflow"]}
    recorded.apply(endpoint("adder", "adder@1", authMode="none"))
    recorded.ready("adder", "adder-1")
    with recorded.client("adder", key="none") as client:
        answer = client.post("/v2/models/adder/infer", json=infer([[1.0]]))
    assert answer.json()["outputs"][0]["data"] == [8.0]


def test_the_command_opens_mlflow(recorded, tmp_path):
    """The printed address answers the namespace's account alone, until Ctrl-C."""
    kubectl = recorded.target.kubectl
    ada = Person(tmp_path, Path(kubectl[kubectl.index("--kubeconfig") + 1]))
    process = ada.begin("-n", NAMESPACE, "open", "mlflow", "--no-browser")
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:"), process.communicate(timeout=60)
        own = recorded.secret("ultramarine-mlflow")
        account = (own["MLFLOW_TRACKING_USERNAME"], own["MLFLOW_TRACKING_PASSWORD"])
        page = httpx.get(address, auth=account, timeout=60)
        assert (page.status_code, "<title>MLflow</title>" in page.text) == (200, True), page.text
        assert httpx.get(address, timeout=60).status_code == 401
    finally:
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert "Ctrl-C closes the way to MLflow." in err
    with pytest.raises(httpx.TransportError):
        httpx.get(address, timeout=60)


def test_a_model_that_the_registry_has_not_is_told_in_its_words(recorded):
    """The failure's last lines have what MLflow answered: it does not tell a missing model from another account's."""
    recorded.apply(importing("import-nobody", "models:/nobody/1"))
    status = recorded.ended("import-nobody")
    assert status["state"] == "Failed"
    assert "answered 403" in str(status["failure"])
    assert "name=nobody&version=1: Permission denied" in str(status["failure"])


def test_a_job_and_its_retry_are_one_run(recorded):
    """Parameters, every step of both attempts, what mlflow.autolog finds, the outputs and the end are in it."""
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
        losses = history(client, run_id, "loss")
    assert status["mlflow"]["runId"] == run_id
    assert run_id in status["mlflow"]["uri"]
    assert (run["info"]["status"], run["info"]["run_name"]) == ("FINISHED", "curve")
    params = {one["key"]: one["value"] for one in run["data"]["params"]}
    assert params.items() >= {"steps": str(STEPS), "lr": "0.1", "C": "0.25"}.items()
    assert {one["step"]: one["value"] for one in losses} == {step: 1 / step for step in range(1, STEPS + 1)}
    metrics = {one["key"]: one["value"] for one in run["data"]["metrics"]}
    assert metrics.items() >= {"loss": 1 / STEPS, "own": 7, "training_accuracy_score": 1}.items()
    tags = {one["key"]: one["value"] for one in run["data"]["tags"]}
    assert tags["ultramarine.uid"] == recorded.get("tj", "curve")["metadata"]["uid"]
    assert tags["ultramarine.pod"] == status["pod"]
    assert tags["mlflow.source.type"] == "JOB"
    output = status["outputs"]["model"]
    assert tags["ultramarine.output.model"] == output["uri"]
    assert tags["ultramarine.digest.model"] == output["digest"]


def test_a_sweep_is_a_run_with_one_below_it_for_each_trial(recorded):
    """Also when its coordinator dies on the way: no trial is there twice, and each has its parameters and its curve."""
    steps = "for step in 1 2 3; do echo step=$step loss=$(params.x); sleep 0.5; done; echo accuracy=0.5"
    recorded.apply(sweep("search", ["sh", "-c", steps], limits={"maxTrials": 30}))
    recorded.wait("sw", "search", lambda s: (s.get("trials") or {}).get("succeeded", 0) >= 3 and s.get("mlflow"))
    selector = "ultramarine.dev/kind=Sweep,ultramarine.dev/name=search,ultramarine.dev/role=coordinator"
    recorded.kubectl("delete", "pod", "-l", selector, "--grace-period=0", "--force", "--wait=false")
    status = recorded.wait("sw", "search", lambda s: s.get("state") in ("Succeeded", "Failed"), 300)
    assert status["state"] == "Succeeded", status

    with tracking(recorded) as client:
        found = runs(client, "search", "ultramarine.sweep")
        histories = {run["info"]["run_id"]: history(client, run["info"]["run_id"], "loss") for run in found}
    tags = {run["info"]["run_id"]: {one["key"]: one["value"] for one in run["data"]["tags"]} for run in found}
    uid, own = recorded.get("sw", "search")["metadata"]["uid"], status["mlflow"]["runId"]
    parent = next(run for run in found if run["info"]["run_id"] == own)
    assert (parent["info"]["status"], parent["info"]["run_name"]) == ("FINISHED", "search")
    assert tags[own]["ultramarine.uid"] == uid
    params = {one["key"]: one["value"] for one in parent["data"]["params"]}
    assert (params["algorithm"], params["seed"], params["objective"]) == ("random", "7", "minimize loss")
    best = status["best"][0]
    assert {one["key"]: one["value"] for one in parent["data"]["metrics"]} == {"best_loss": best["values"]["loss"]}
    assert tags[own]["ultramarine.best.trial"] == str(best["trial"])

    below = [run for run in found if tags[run["info"]["run_id"]].get("mlflow.parentRunId") == own]
    assert len(below) == len(found) - 1 == 30
    assert {tags[run["info"]["run_id"]]["ultramarine.trial"] for run in below} == {str(n) for n in range(30)}
    gaps = 0
    for run in below:
        (x,) = (float(one["value"]) for one in run["data"]["params"] if one["key"] == "x")
        curve = sorted((one["step"], one["value"]) for one in histories[run["info"]["run_id"]])
        assert run["info"]["status"] == "FINISHED"
        assert tags[run["info"]["run_id"]]["mlflow.source.name"].startswith("sh -c for step in")
        assert set(curve) <= {(1, x), (2, x), (3, x)}
        gaps += len(curve) < 3
    assert gaps <= 2, "only of the two trials that ran when the coordinator died may points be missing"


def test_trials_that_were_stopped_and_a_sweep_that_is_held_are_killed_runs(recorded):
    """A trial that earlyTermination ends is KILLED; so is a suspended sweep, until it goes on."""
    steps = "for step in 1 2 3 4 5 6 7 8 9; do echo step=$step loss=$(params.x); sleep 0.5; done"
    stopping = {"type": "asha", "minSteps": 1, "maxSteps": 9, "reductionFactor": 3}
    recorded.apply(sweep("halved", ["sh", "-c", steps], limits={"maxTrials": 40}, earlyTermination=stopping))
    recorded.wait("sw", "halved", lambda s: (s.get("trials") or {}).get("stopped", 0) >= 1 and s.get("mlflow"))
    recorded.kubectl("patch", "sw", "halved", "--type=merge", "-p", '{"spec": {"suspend": true}}')
    own = recorded.wait("sw", "halved", lambda s: s.get("state") == "Suspended")["mlflow"]["runId"]
    with tracking(recorded) as client:

        def state() -> str:
            found = client.get("/runs/get", params={"run_id": own}).raise_for_status().json()["run"]
            return str(found["info"]["status"])

        until = time.monotonic() + 180
        while state() != "KILLED":
            assert time.monotonic() < until, state()
            time.sleep(0.5)
        recorded.kubectl("patch", "sw", "halved", "--type=merge", "-p", '{"spec": {"suspend": false}}')
        status = recorded.wait("sw", "halved", lambda s: s.get("state") in ("Succeeded", "Failed"), 300)
        assert (status["state"], state()) == ("Succeeded", "FINISHED")
        found = [run["info"]["status"] for run in runs(client, "halved", "ultramarine.sweep")]
    assert found.count("KILLED") == status["trials"]["stopped"] > 0
    assert len(found) == 41


@pytest.mark.attack(
    "training/mlflow",
    asset="what other namespaces record in the embedded MLflow",
    threat="a job, or whoever reads its namespace's Secret, lists, reads, changes, deletes or takes over runs, "
    "experiments, models and artifacts, or makes itself more than it is",
    control="each namespace has an account of MLflow's own, and its experiment; what has no rule is refused. The "
    "accounts' Secret and the volume are closed to jobs beside the platform",
)
def test_an_account_is_a_wall_between_namespaces(recorded):
    """The other namespace's account is refused by each path to a run, its experiment, its model and its files."""
    other = Platform(recorded.target, OTHER)
    with tracking(recorded) as client, tracking(other) as stranger:
        version = registered(client, "walled", {"MLmodel": MLMODEL}, {"accuracy": 0.5})
        run = client.get("/runs/get", params={"run_id": version["run_id"]}).raise_for_status().json()["run"]["info"]
        experiment, run_id, file = experiment_of(client), run["run_id"], f"{artifacts_of(client, run)}/model/MLmodel"
        in_it, of_it = {"experiment_id": experiment["experiment_id"]}, {"run_id": run_id}
        model, grant = {"name": "walled", "version": "1"}, {"username": f"namespace-{OTHER}", "permission": "MANAGE"}
        attempts: list[tuple[str, str, Manifest]] = [
            ("GET", "/runs/get", of_it),
            ("GET", "/metrics/get-history", {**of_it, "metric_key": "accuracy"}),
            ("GET", "/artifacts/list", of_it),
            ("POST", "/runs/log-batch", {**of_it, "tags": [{"key": "ultramarine.uid", "value": "forged"}]}),
            ("POST", "/runs/update", {**of_it, "status": "FAILED"}),
            ("POST", "/runs/delete", of_it),
            ("POST", "/runs/create", in_it),
            ("GET", "/experiments/get-by-name", {"experiment_name": NAMESPACE}),
            ("POST", "/experiments/update", {**in_it, "new_name": "taken"}),
            ("POST", "/experiments/delete", in_it),
            ("GET", "/registered-models/get", model),
            ("GET", "/model-versions/get-download-uri", model),
            ("DELETE", "/registered-models/delete", model),
            ("POST", "/model-versions/create", {"name": "walled", "source": version["source"], **of_it}),
            ("GET", file, {}),
            ("PUT", file, {"forged": True}),
            ("DELETE", file, {}),
            (
                "POST",
                f"{permissions(client)}/grant",
                {**grant, "resource_type": "experiment", "resource_id": in_it["experiment_id"]},
            ),
            ("PATCH", "/users/update-admin", {"username": grant["username"], "is_admin": True}),
            ("PATCH", "/users/update-password", {"username": f"namespace-{NAMESPACE}", "password": "a" * 20}),
            ("POST", "/users/create", {"username": "another", "password": "a" * 20}),
        ]
        answers = {}
        for method, path, words in attempts:
            given = {"params": words} if method == "GET" else {"json": words}
            answers[f"{method} {path}"] = stranger.request(method, path, **given).status_code
        assert answers == dict.fromkeys(answers, 403)

        assert stranger.post("/runs/search", json={"experiment_ids": [in_it["experiment_id"]]}).json() == {}
        listed = stranger.post("/experiments/search", json={"max_results": 10}).raise_for_status().json()
        assert [each["name"] for each in listed["experiments"]] == [OTHER]
        assert stranger.get("/registered-models/search").raise_for_status().json() == {}
        assert client.get(file).content == MLMODEL
        again = client.get("/runs/get", params=of_it).raise_for_status().json()["run"]
        assert again["info"]["status"] == run["status"]


@pytest.mark.attack("training/mlflow")
@pytest.mark.parametrize("password", ["", "wrong"])
def test_nobody_asks_mlflow_without_the_password(recorded, password):
    """Without an account, and with another password, each answer is 401."""
    with tracking(recorded, (f"namespace-{NAMESPACE}", password)) as client:
        if not password:
            client.auth = None
        for path in ("/experiments/search?max_results=1", "/registered-models/search"):
            assert client.get(path).status_code == 401
        assert client.get(str(client.base_url).replace("/api/2.0/mlflow", "")).status_code == 401


def test_a_team_reaches_mlflow_by_its_own_gateway(recorded):
    """Behind a port-forward to its gateway pod MLflow opens the second namespace's experiment to its account."""
    other = Platform(recorded.target, OTHER)
    own = other.secret("ultramarine-mlflow")
    account = (own["MLFLOW_TRACKING_USERNAME"], own["MLFLOW_TRACKING_PASSWORD"])
    named = "/api/2.0/mlflow/experiments/get-by-name?experiment_name="
    with (
        other.by_gateway(MLFLOW_FORWARD_PORT) as port,
        httpx.Client(base_url=f"http://localhost:{port}", timeout=60) as client,
    ):
        answers = [client.get(f"{named}{space}", auth=account).status_code for space in (OTHER, NAMESPACE)]
    assert answers == [200, 403]


def test_what_was_recorded_before_there_were_accounts_is_its_namespaces(recorded):
    """At a start each namespace gets the experiment of its name, also one that was deleted or is another's."""
    admin = ("admin", recorded.secret("ultramarine-mlflow-accounts")["admin"])
    with tracking(recorded, admin) as client:
        experiment = experiment_of(client)
        words = {"resource_type": "experiment", "resource_id": experiment["experiment_id"]}
        revoked = client.post(f"{permissions(client)}/revoke", json={**words, "username": f"namespace-{NAMESPACE}"})
        revoked.raise_for_status()
        granted = {**words, "username": f"namespace-{OTHER}", "permission": "MANAGE"}
        client.post(f"{permissions(client)}/grant", json=granted).raise_for_status()
        client.post("/experiments/delete", json={"experiment_id": experiment["experiment_id"]}).raise_for_status()
    recorded.kubectl("rollout", "restart", "deployment/ultramarine-mlflow")
    recorded.kubectl("rollout", "status", "deployment/ultramarine-mlflow", "--timeout=300s")
    with tracking(recorded) as client, tracking(Platform(recorded.target, OTHER)) as stranger:
        assert experiment_of(client) == {**experiment, "last_update_time": experiment_of(client)["last_update_time"]}
        refused = stranger.get("/experiments/get", params={"experiment_id": experiment["experiment_id"]})
        assert refused.status_code == 403


def test_a_strangers_name_for_the_server_is_refused(recorded):
    """A page that has its own name resolve to the server, as DNS rebinding does, reads nothing."""
    with tracking(recorded) as client:
        answer = client.get("/experiments/get-by-name", headers={"Host": "stranger.example.com"})
    assert answer.status_code == 403


def test_a_job_does_not_need_mlflow(recorded):
    """While the server is away a job starts, ends well, and says in its log what it misses."""
    without_server(recorded)
    recorded.apply(training_job("alone"))
    status = recorded.ended("alone")
    assert status["state"] == "Succeeded"
    assert status["metrics"]["latest"]["accuracy"] == 1
    assert "mlflow" not in status
    log = recorded.kubectl("logs", status["pod"], "-c", "trainer")
    assert log.count("not wholly recorded in MLflow") == 1


def test_a_sweep_does_not_need_mlflow(recorded):
    """While the server is away trials run as ever, and the coordinator says in its log what is missing."""
    without_server(recorded)
    recorded.apply(sweep("alone", limits={"maxTrials": 6}))
    status = recorded.wait("sw", "alone", lambda s: s.get("state") in ("Succeeded", "Failed"), 300)
    assert (status["state"], status["trials"]["succeeded"]) == ("Succeeded", 6)
    assert "mlflow" not in status
    log = recorded.kubectl("logs", "job/alone-coordinator")
    assert log.count("not wholly recorded in MLflow") == 1
    assert "6 of its trials are not recorded in MLflow" in log
