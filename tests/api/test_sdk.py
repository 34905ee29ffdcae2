"""The SDK against a real API server and a real object storage: objects, runs, streams, repetition."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import ultramarine
import yaml
from bare import Api, whole
from materials import MATERIALS
from ports import free_port
from ultramarine.cli.describing import head
from ultramarine.cli.planning import compared, lines_of
from ultramarine.kube.errors import Exists, NotFound, Rejected
from ultramarine.kube.platform import NoWay
from ultramarine.runs.repro import reproduce
from ultramarine.storage.uploads import upload_local_paths
from ultramarine_cluster.cluster import Cluster
from ultramarine_contract.errors import InvalidSpec, UltramarineError
from ultramarine_contract.meta import content_hash
from ultramarine_contract.storage import Storage

TRAIN = "print('loss=0.5')\n"


class Relay:
    """A port on loopback that leads to another one, and can be away."""

    def __init__(self, target: int) -> None:
        self.target, self.port = target, free_port()  # not one that an outgoing connection may take meanwhile
        self._pairs: list[socket.socket] = []
        self.come_back()

    def come_back(self) -> None:
        """Accept connections, on the same port as before."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def leave(self) -> None:
        """Cut all connections, and refuse new ones."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for end in self._pairs:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._pairs.clear()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", self.target))
                self._pairs += [near, far]
                for source, target in ((near, far), (far, near)):
                    threading.Thread(target=self._pass, args=(source, target), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


@pytest.fixture
def relay(bare: Cluster) -> Iterator[Relay]:
    """A relay to the API server."""
    server = yaml.safe_load(bare.kubeconfig.read_text())["clusters"][0]["cluster"]["server"]
    relay = Relay(urlsplit(server).port or 443)
    yield relay
    relay.leave()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with code and data, in which the program runs."""
    (tmp_path / "train.py").write_text(TRAIN)
    (tmp_path / "churn.csv").write_text("a,b\n1,2\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def job(name: str = "churn", **fields: Any) -> ultramarine.TrainingJob:
    """Return a small job."""
    return ultramarine.TrainingJob(**{"name": name, "command": ["python", "train.py"], **fields})


def condition(type: str, status: str, reason: str, message: str = "") -> dict[str, Any]:
    """Return a condition as the operator writes it."""
    return {
        "type": type,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": "2026-12-01T10:00:00Z",
    }


def succeed(api: Api, name: str, **status: Any) -> None:
    """End a run well, as the operator does."""
    done = condition("Succeeded", "True", "Finished", "the command has ended")
    api.status("tj", name, {"state": "Succeeded", "conditions": [done], **status})


def fail(api: Api, name: str) -> None:
    """End a run with a failure."""
    failure = {"reason": "CommandFailed", "message": "exit code 1: KeyError: 'age'", "tail": "line 1\nKeyError: 'age'"}
    failed = condition("Failed", "True", "CommandFailed", failure["message"])
    api.status("tj", name, {"state": "Failed", "conditions": [failed], "failure": failure})


def soon(action: Callable[[], None]) -> threading.Thread:
    """Do something in another thread, while the test waits."""
    thread = threading.Thread(target=action)
    thread.start()
    return thread


# ---- Objects


@pytest.mark.parametrize("kind", list(MATERIALS))
def test_the_server_admits_each_typed_object(client: ultramarine.Client, kind: str) -> None:
    """An object with every field of its kind is the same for the server as its manifest."""
    manifest = whole(kind)
    typed = getattr(ultramarine, kind).from_manifest(manifest)

    assert client.apply(typed, dry_run=True)["spec"] == client.apply(manifest, dry_run=True)["spec"]


def test_local_paths_are_uploaded_under_their_content(
    client: ultramarine.Client, store: Storage, project: Path
) -> None:
    """The stored object has URIs and digests, and the same folder is stored once."""
    made = job(source={"path": "."}, inputs={"churn": {"path": "churn.csv"}})

    first = client.submit(made).object["spec"]
    second = client.submit(job("again", **made.manifest()["spec"])).object["spec"]

    assert first["source"] == second["source"]
    assert store.exists(first["source"]["uri"])
    assert store.read(first["inputs"]["churn"]["uri"]) == b"a,b\n1,2\n"


def test_a_dry_run_leaves_nothing(client: ultramarine.Client, store: Storage, project: Path) -> None:
    """Neither an object nor a file is made."""
    client.apply(job(source={"path": "."}), dry_run=True)

    with pytest.raises(NotFound):
        client.get("tj", "churn")
    assert store.folders(f"s3://lake/{client.namespace}/") == []


def test_a_name_is_taken_once(client: ultramarine.Client) -> None:
    """A second submission of a name is refused with a remedy, and generateName makes a new one."""
    client.submit(job())

    with pytest.raises(Exists, match=r"already exists\. Choose another name"):
        client.submit(job())
    made = [client.submit(ultramarine.TrainingJob(generate_name="churn-", command=["a"])).name for _ in range(2)]
    assert len(set(made)) == 2


def test_an_apply_takes_over_what_the_client_patched(client: ultramarine.Client, api: Api) -> None:
    """A patch of the client owns its fields apart from an apply; fields of others need `force`."""
    resource = client.kinds.named("trainingjob")
    manifest = job(suspend=True)
    client.apply(manifest)
    client.cluster.patch(resource, "churn", {"spec": {"suspend": False}})
    assert client.apply(manifest)["spec"]["suspend"] is True

    api.run("patch", "trainingjob", "churn", "--type=merge", "-p", '{"spec": {"suspend": false}}')
    with pytest.raises(Exists, match=r"kubectl-patch owns spec\.suspend\. Leave .* over by --force"):
        client.apply(manifest)
    assert client.apply(manifest, force=True)["spec"]["suspend"] is True


def test_the_server_names_a_wrong_field(client: ultramarine.Client) -> None:
    """A rule over several fields is the server's, and its words reach the caller."""
    with pytest.raises(Rejected, match="several nodes need a framework"):
        client.submit(job(nodes=2))


# ---- Runs


def test_a_run_is_awaited(client: ultramarine.Client, api: Api) -> None:
    """wait() returns after success, and the run has its results."""
    run = client.submit(job())
    thread = soon(lambda: succeed(api, "churn", modelVersion="churn-1", metrics={"latest": {"loss": 0.5}}))

    assert run.wait(60) is run
    thread.join()
    assert run.state == "Succeeded"
    assert run.model_version == "churn-1"
    assert run.latest_metrics == {"loss": 0.5}
    assert list(run.metrics()["value"]) == [0.5]


def test_a_failed_run_raises_its_cause(client: ultramarine.Client, api: Api) -> None:
    """The error is the failure's message."""
    run = client.submit(job())
    thread = soon(lambda: fail(api, "churn"))

    with pytest.raises(ultramarine.RunFailed, match="TrainingJob churn failed: exit code 1: KeyError"):
        run.wait(60)
    thread.join()


def test_a_deleted_run_ends_the_wait(client: ultramarine.Client) -> None:
    """Without its object a run cannot end."""
    run = client.submit(job())
    thread = soon(run.delete)

    with pytest.raises(ultramarine.RunFailed, match="deleted before it ended"):
        run.wait(60)
    thread.join()


def test_a_cancelled_run_cannot_go_on(client: ultramarine.Client, api: Api) -> None:
    """cancel() is not suspend(): nothing brings the run back, and a wait for it ends."""
    run = client.submit(job())
    run.cancel()

    spec = run.object["spec"]
    assert (spec["cancel"], spec["suspend"]) == (True, False)
    with pytest.raises(Rejected, match="a cancelled run cannot go on"):
        client.cluster.patch(run.resource, run.name, {"spec": {"cancel": False}})
    ended = condition("Failed", "True", "Cancelled", "ended by spec.cancel")
    api.status("tj", "churn", {"state": "Cancelled", "conditions": [ended]})
    with pytest.raises(ultramarine.RunFailed, match=r"TrainingJob churn: ended by spec\.cancel"):
        run.wait(60)


def test_a_wait_has_its_limit(client: ultramarine.Client) -> None:
    """TimeoutError is Python's own."""
    with pytest.raises(TimeoutError, match="has not ended within 1 seconds"):
        client.submit(job()).wait(1)


def test_states_are_streamed(client: ultramarine.Client, api: Api) -> None:
    """The last update is the end."""
    run = client.submit(job())
    updates = run.stream()

    assert next(updates).state == "Pending"
    succeed(api, "churn")
    assert [update.state for update in updates][-1] == "Succeeded"


def test_metrics_that_nothing_prints_are_streamed(client: ultramarine.Client, api: Api) -> None:
    """A line per change has what changed; a status with the same values has none."""
    run = client.submit(job())
    updates = run.stream()
    assert next(updates).state == "Pending"

    running = {"state": "Running", "conditions": [condition("Running", "True", "PodRunning", "its pod runs")]}
    api.status("tj", "churn", {**running, "metrics": {"latest": {"loss": 0.5, "accuracy": 0.75}}})
    assert next(updates).state == "Running"
    assert next(updates) == ultramarine.Update("metrics", "metrics: accuracy=0.75 loss=0.5")

    same = {"latest": {"loss": 0.5, "accuracy": 0.75}}
    api.status("tj", "churn", {**running, "startTime": "2026-12-01T10:00:00Z", "metrics": same})
    later = {"metrics": {"latest": {"loss": 0.25, "accuracy": 0.75}}, "progress": {"step": 3, "totalSteps": 10}}
    api.status("tj", "churn", {**running, **later})
    assert next(updates) == ultramarine.Update("metrics", "metrics: loss=0.25 step=3 total_steps=10")
    api.status("tj", "churn", {**running, "progress": {"step": 4, "totalSteps": 10}})
    assert next(updates) == ultramarine.Update("metrics", "progress: step=4 total_steps=10")
    succeed(api, "churn")
    assert [update.state for update in updates] == ["Succeeded"]


def test_a_stream_survives_a_restart_of_the_server(
    client: ultramarine.Client, api: Api, bare: Cluster, relay: Relay, tmp_path: Path
) -> None:
    """Connections are cut and refused for a while; the end is seen nevertheless."""
    config = yaml.safe_load(bare.kubeconfig.read_text())
    config["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{relay.port}"
    file = tmp_path / "kubeconfig"
    file.write_text(yaml.safe_dump(config))
    client.submit(job())
    with ultramarine.Client(kubeconfig=str(file), namespace=api.namespace) as distant:
        updates = distant.run("churn").stream()
        assert next(updates).state == "Pending"

        relay.leave()
        succeed(api, "churn")
        threading.Timer(2, relay.come_back).start()

        assert [update.state for update in updates] == ["Succeeded"]


def test_outputs_are_downloaded(client: ultramarine.Client, api: Api, store: Storage, tmp_path: Path) -> None:
    """Files come from the storage by the URI and the digest of the status."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights.txt").write_text("1 2 3")
    record = store.upload_folder(tmp_path / "model", "s3://lake/outputs/model", "custom")
    run = client.submit(job(outputs={"model": {}}))
    output = {"uri": record.uri, "digest": record.digest, "bytes": record.bytes, "format": "custom"}
    succeed(api, "churn", outputs={"model": output})

    assert (run.outputs["model"].download(tmp_path / "copy") / "weights.txt").read_text() == "1 2 3"
    assert run.outputs["model"].digest == record.digest


def test_what_mlflow_logged_without_a_server_is_downloaded(
    client: ultramarine.Client, api: Api, store: Storage, tmp_path: Path
) -> None:
    """Runs and models of `mlflow.autolog()` lie beside the logs of the job's pod."""
    (tmp_path / "runs/0/models/m-1/artifacts").mkdir(parents=True)
    (tmp_path / "runs/0/models/m-1/artifacts/MLmodel").write_text("flavors: {}")
    base = "s3://lake/team-a/trainingjobs/churn/uid/"
    run = client.submit(job())
    assert run.mlflow_runs is None
    store.upload_folder(tmp_path / "runs", f"{base}attempts/churn-0-abcde/mlruns/")
    succeed(api, "churn", logs={"uri": f"{base}logs/"}, pod="churn-0-abcde")

    logged = run.mlflow_runs
    assert logged
    assert (logged.download(tmp_path / "copy") / "0/models/m-1/artifacts/MLmodel").is_file()


def test_a_notebook_shows_a_run(client: ultramarine.Client, api: Api) -> None:
    """The representation has state, progress and metrics, and no markup of others."""
    run = client.submit(job())
    running = condition("Running", "True", "PodRunning", "pod <b>churn-0</b> runs")
    api.status(
        "tj",
        "churn",
        {
            "state": "Running",
            "conditions": [running],
            "progress": {"percent": 40},
            "metrics": {"latest": {"loss": 0.5}},
        },
    )
    bundle = run._repr_mimebundle_()

    assert bundle["text/plain"] == f"{run!r}: TrainingJob churn: pod <b>churn-0</b> runs"
    assert 'value="40"' in bundle["text/html"]
    assert "<td>loss</td><td>0.5</td>" in bundle["text/html"]
    assert "<b>churn-0</b>" not in bundle["text/html"]
    run.delete()
    assert "does not exist" in run._repr_mimebundle_()["text/plain"]


def test_a_sweep_is_a_run_with_trials(client: ultramarine.Client) -> None:
    """A Sweep gives a SweepRun, which is empty before the first trial."""
    spec = whole("Sweep")["spec"]
    run = client.submit(ultramarine.Sweep(name="hpo", **spec))

    assert isinstance(run, ultramarine.SweepRun)
    assert isinstance(client.run("hpo", "sweep"), ultramarine.SweepRun)
    assert client.sweep("hpo").trial_list() == []
    assert run.best is None
    assert len(run.trials()) == 0
    with pytest.raises(UltramarineError, match="has no report yet"):
        run.report()


def test_a_failure_is_described(client: ultramarine.Client, api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """The page has what happened, why, what to do, and the last lines."""
    client.submit(job())
    fail(api, "churn")
    head(client.get("tj", "churn"))
    lines = capsys.readouterr().out.splitlines()

    assert lines[0] == f"TrainingJob {api.namespace}/churn: Failed"
    assert "What happened: exit code 1: KeyError: 'age'" in lines
    assert "Why: CommandFailed: The command exited with an error." in lines
    assert "What to do: Read status.failure.tail and the log." in lines
    assert "  KeyError: 'age'" in lines


# ---- Repetition


def ran(api: Api, name: str = "churn", **provenance: Any) -> None:
    """Let a job have run."""
    succeed(api, name, attempts=1, provenance={"imageDigest": "registry/trainer@sha256:" + "a" * 64, **provenance})


def test_a_job_is_repeated_by_digests(client: ultramarine.Client, api: Api, project: Path) -> None:
    """Code and image have digests, data of the client's own uploads cannot change, and nothing else may differ."""
    spec = {"image": "registry/trainer:1", "parameters": {"lr": 0.1}, "suspend": True}
    client.submit(job(source={"path": "."}, inputs={"churn": {"path": "churn.csv"}}, **spec))
    before = client.get("tj", "churn")["spec"]
    ran(api, sourceDigest=before["source"]["digest"])
    result = reproduce(client, "churn")

    assert result.differences == []
    assert result.manifest["metadata"] == {"name": "churn-again"}
    assert result.manifest["spec"]["image"] == "registry/trainer@sha256:" + "a" * 64
    assert result.manifest["spec"]["parameters"] == {"lr": "0.1"}
    assert "suspend" not in result.manifest["spec"]
    assert client.submit(result.manifest).object["spec"]["source"] == before["source"]


def test_a_repetition_says_what_may_differ(client: ultramarine.Client, api: Api, store: Storage) -> None:
    """Data that has changed, secrets, and the platform's image are named."""
    store.write("s3://lake/shared/a.csv", b"1")
    store.write("s3://lake/shared/b.csv", b"1")
    env = [{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "token", "key": "value"}}}]
    inputs = {name: {"uri": f"s3://lake/shared/{name}.csv"} for name in "abc"}
    client.submit(job(source={"inline": {"train.py": TRAIN}}, env=env, inputs=inputs))
    size = {"bytes": 1, "files": 1, "digest": "sha256:" + "b" * 64}
    ran(api)
    api.status("tj", "churn", {"inputs": {"a": size, "b": {**size, "bytes": 5}, "c": size}})

    assert reproduce(client, "churn", "other").differences == [
        "image: the platform's own of today; the job ran registry/trainer@sha256:" + "a" * 64,
        "input a: s3://lake/shared/a.csv has the same size; its content is not compared",
        "input b: s3://lake/shared/b.csv has 1 file with 1 byte; the job read 1 with 5",
        "input c: s3://lake/shared/c.csv no longer exists",
        "env: values of Secret token are not recorded",
    ]


@pytest.mark.parametrize("changed", [False, True])
def test_code_of_a_config_map_is_taken_along(client: ultramarine.Client, api: Api, changed: bool) -> None:
    """A ConfigMap with the code that ran becomes inline code; another one is named."""
    files = {"train.py": TRAIN}
    content = {"train.py": "print(2)\n"} if changed else files
    api.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "code"}, "data": content})
    client.submit(job(source={"configMap": {"name": "code"}}))
    ran(api, sourceDigest=f"sha256:{content_hash(files)}")
    result = reproduce(client, "churn")

    assert result.manifest["spec"]["source"] == ({"configMap": {"name": "code"}} if changed else {"inline": files})
    assert any("ConfigMap code has changed" in line for line in result.differences) is changed


def test_packages_are_pinned_by_the_lock(client: ultramarine.Client, api: Api, store: Storage) -> None:
    """An Environment that is gone is built again from its lock; one that exists is named."""
    folder = "s3://lake/environments/env-1/abc"
    store.write(f"{folder}/requirements.txt", b"numpy==2.4.0 \\\n    --hash=sha256:aa\n")
    client.submit(job(environment={"requirements": ["numpy"]}))
    digest = "sha256:" + "c" * 64
    ran(api, environment="env-1", environmentUri=f"{folder}/environment.tar.zst", environmentDigest=digest)

    gone = reproduce(client, "churn")
    client.apply(ultramarine.Environment(name="env-1", python={"requirements": ["numpy"]}))
    api.status("environment", "env-1", {"digest": digest})
    here = reproduce(client, "churn")

    assert gone.manifest["spec"]["environment"] == {"requirements": ["numpy==2.4.0"]}
    assert any("Environment env-1 no longer exists" in line for line in gone.differences)
    assert here.manifest["spec"]["environment"] == {"name": "env-1"}


def test_a_job_that_never_ran_is_not_repeated(client: ultramarine.Client) -> None:
    """Nothing is recorded before the first pod."""
    client.submit(job())

    with pytest.raises(InvalidSpec, match="never started"):
        reproduce(client, "churn")


# ---- Plans


def planned(client: ultramarine.Client, object: ultramarine.TrainingJob | ultramarine.OnlineEndpoint) -> list[str]:
    """Return the lines of a plan."""
    return list(lines_of(compared(client, object.manifest())))


def endpoint(replicas: int = 1) -> ultramarine.OnlineEndpoint:
    """Return an endpoint."""
    resources = {"requests": {"cpu": "500m"}}
    deployment = {"name": "blue", "model": "churn@1", "replicas": replicas, "resources": resources}
    return ultramarine.OnlineEndpoint(name="churn", deployments=[deployment])


def test_a_new_object_would_be_created_with_its_pods(client: ultramarine.Client) -> None:
    """The plan has what all pods reserve."""
    made = job(nodes=2, framework="torch", resources={"requests": {"cpu": 2}})

    assert compared(client, made.manifest()).action == "create"
    assert planned(client, made) == ["pods: 2 of node, each with cpu 2", "at most together: cpu 4"]
    with pytest.raises(NotFound):
        client.get("tj", "churn")


def test_a_change_is_named(client: ultramarine.Client) -> None:
    """An existing object shows the fields that would change; the same manifest changes nothing."""
    client.apply(endpoint())

    assert compared(client, endpoint().manifest()).action == "keep"
    assert compared(client, endpoint(3).manifest()).action == "change"
    assert "spec.deployments.blue.replicas: 1 -> 3" in planned(client, endpoint(3))
    assert "pods: 3 of deployment blue, each with cpu 500m" in planned(client, endpoint(3))


def test_a_fixed_field_needs_a_new_object(client: ultramarine.Client) -> None:
    """The plan names the field that cannot change."""
    client.submit(job())
    other = job(command=["python", "other.py"], suspend=True)

    assert compared(client, other.manifest()).action == "recreate"
    assert planned(client, other) == ['spec.command: ["python", "train.py"] -> ["python", "other.py"]']


def test_a_refused_object_is_refused_in_the_plan(client: ultramarine.Client) -> None:
    """The server's rules count."""
    with pytest.raises(Rejected, match="several nodes need a framework"):
        compared(client, job(nodes=2).manifest())


def _without_gateway(api: Api, endpoint: str = "http://ultramarine-storage.far.svc:7070") -> None:
    """Make the namespace's facts those of a release without gateways, whose storage only pods can reach."""
    facts = api.get("configmap", "ultramarine-platform")
    api.apply({**facts, "data": {**facts["data"], "storageEndpoint": endpoint}})


def test_small_code_needs_no_way_to_the_storage(client: ultramarine.Client, api: Api, tmp_path: Path) -> None:
    """Without a gateway the manifest holds the code; what is larger or data names the missing way and the remedy."""
    _without_gateway(api)
    (tmp_path / "train.py").write_text(TRAIN)
    notes: list[str] = []
    spec: dict[str, Any] = {"command": ["python", "train.py"], "source": {"path": str(tmp_path)}}
    manifest = {**whole("TrainingJob"), "metadata": {"name": "small"}, "spec": spec}
    made = client.apply(upload_local_paths(client.platform, manifest, note=notes.append))
    assert made["spec"]["source"] == {"inline": {"train.py": TRAIN}}
    assert notes == ["No way leads to the storage; the manifest holds the code: 1 file."]

    remedy = r"has no gateway that leads to the storage.*Ask your administrator to set gateway\.enabled"
    with pytest.raises(NoWay, match=remedy):
        client.data.put(tmp_path / "train.py")
    (tmp_path / "large.csv").write_bytes(b"0" * 300_000)
    with pytest.raises(NoWay, match=rf"{remedy}.*keep the code below 200 KB in 32 text files"):
        client.apply({**manifest, "spec": {**spec, "source": {"path": str(tmp_path)}}})


def test_an_imported_model_is_listed(client: ultramarine.Client, store: Storage, tmp_path: Path) -> None:
    """The first version makes its Model, which `models list` shows before any alias exists."""
    (tmp_path / "model.skops").write_bytes(b"model")
    version = client.models.add(tmp_path / "model.skops", "churn", "sklearn")

    assert version["metadata"]["name"] == "churn-1"
    assert [model["metadata"]["name"] for model in client.list("models")] == ["churn"]
