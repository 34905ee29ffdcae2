"""Own code of an OnlineEndpoint: environments, scoring scripts, and what the author gives to the pods."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from builders import NOW, PLATFORM, child, condition, endpoint, kinds_of, ours, seen, version
from ultramarine_contract import common as contract
from ultramarine_contract.errors import InvalidSpec
from ultramarine_contract.training_records import TerminationRecord
from ultramarine_operator.kinds import KINDS
from ultramarine_operator.kinds.onlineendpoint.deployment.own_code import own_image
from ultramarine_operator.kinds.onlineendpoint.endpoint import selector
from ultramarine_operator.kinds.onlineendpoint.plan import plan
from ultramarine_operator.kinds.onlineendpoint.rollout.decide import identity
from ultramarine_operator.shared.plan import MadePods

SCORE = {"score.py": "def init():\n    pass\n\n\ndef run(data):\n    return data\n"}
INLINE = {"source": {"inline": SCORE}}
DIGEST = "sha256:" + "e" * 64
LIGHTGBM = {"requirements": ["lightgbm==4.6"]}


def own(model="churn@1", **fields):
    """An endpoint whose one deployment has own code."""
    return endpoint(deployments=[{"name": "blue", "model": model, **fields}])


def environment(name="ours", *, digest=DIGEST, image="", **status):
    """An Environment that is built, unless `status` says something else."""
    ready = {"uri": f"s3://lake/team-a/environments/{name}.tar.zst", "digest": digest, "bytes": 1000}
    conditions = [{"type": "Ready", "status": "True", "reason": "Built", "message": ""}]
    spec = {"python": LIGHTGBM, **({"image": image} if image else {})}
    return ours("Environment", name, spec, {"conditions": conditions, **ready, **status})


def failed(message):
    """Conditions of an Environment whose build failed for good."""
    reasons = {"Ready": "False", "Failed": "True"}
    return [{"type": t, "status": s, "reason": "Unsatisfiable", "message": message} for t, s in reasons.items()]


def planned(owner, *others, children=(), platform=PLATFORM):
    """The plan of an endpoint beside version 1, and other objects."""
    return plan(owner, seen(*children, platform=platform, related=(version(1), *others)), NOW)


def pod_of(got):
    """The pod of the only Deployment that a plan applies."""
    [made] = [m for m in got.apply if m["kind"] == "Deployment"]
    return made["spec"]["template"]["spec"]


def containers(pod):
    """The containers of a pod by name, init containers too."""
    return {c["name"]: c for c in (*pod["initContainers"], *pod["containers"])}


def mounts(container):
    """Paths that a container mounts, true if it may write there."""
    return {mount["mountPath"]: not mount.get("readOnly", False) for mount in container["volumeMounts"]}


def task_of(container):
    """The task in a container's variables."""
    return json.loads(next(v["value"] for v in container["env"] if v["name"] == contract.ENV_TASK))


def revision(got):
    """The revision of the only Deployment that a plan applies."""
    return next(m for m in got.apply if m["kind"] == "Deployment")["metadata"]["annotations"][
        "ultramarine.dev/revision"
    ]


def test_inline_requirements_make_an_environment_and_wait_for_it():
    """The shared Environment is created at once, even before the model exists; the deployment names what it awaits."""
    got = plan(own(environment=LIGHTGBM), seen(), NOW)
    [made] = got.create
    assert made["spec"] == {"python": LIGHTGBM}
    assert "Model" in condition(got, "Ready")["message"], "the model is missing too"

    got = planned(own(environment=LIGHTGBM))
    assert got.create == (made,)
    assert kinds_of(got.apply) == ["Service/churn"]
    assert (condition(got, "Ready")["reason"], got.status["deployments"][0]["state"]) == ("Waiting", "Waiting")
    assert made["metadata"]["name"] in condition(got, "Ready")["message"]
    assert got.status["deployments"][0]["environment"] == made["metadata"]["name"]


def test_an_environment_that_failed_is_the_deployments_failure():
    """The words of the resolver are in the state and in Ready, before the model exists; pods that serve go on."""
    message = "there is no version of lightgbm==99"
    broken = environment(conditions=failed(message))
    got = plan(own(environment={"name": "ours"}), seen(related=(broken,)), NOW)
    assert got.status["deployments"][0]["state"] == condition(got, "Ready")["reason"] == "Failing"
    assert message in condition(got, "Ready")["message"]

    owner = own(environment={"name": "ours"})
    live = child("Deployment", "churn-blue", owner, {"replicas": 1, "template": {"spec": {}}})
    serving = child(
        "Pod", "churn-blue-x", owner, {}, {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    )
    serving["metadata"]["labels"] = selector(owner, "blue")
    serving["metadata"]["annotations"] = {"ultramarine.dev/model-version": "churn-1"}
    got = planned(owner, broken, children=(live, serving))
    assert got.status["deployments"][0]["state"] == "Waiting"
    assert "meanwhile churn-1 is served" in got.status["deployments"][0]["message"]
    assert not [ref for ref in got.delete if ref.resource.kind == "Deployment"]


def test_an_environment_that_failed_stalls_the_endpoint_until_an_edit():
    """Tools that read kstatus wait no longer; a missing Environment may still be applied."""
    owner = own(environment={"name": "ours"})
    broken = environment(conditions=failed("there is no version of lightgbm==99"))
    got = planned(owner, broken)
    assert "there is no version of lightgbm==99" in condition(got, "Stalled")["message"]
    assert condition(got, "Reconciling") == {}

    for edited in (planned(own(environment={"name": "other"}), broken), planned(owner)):
        assert condition(edited, "Stalled") == {}
        assert condition(edited, "Reconciling")["status"] == "True"


def test_a_missing_config_map_of_a_script_is_named():
    """The server sees an empty folder only."""
    owner = own(scoring={"source": {"configMap": {"name": "rentals-scoring"}}, "entry": "main.py"})
    [made] = [m for m in planned(owner).apply if m["kind"] == "Deployment"]
    live = child("Deployment", "churn-blue", owner, made["spec"], {"observedGeneration": 1, "updatedReplicas": 1})
    live["metadata"]["annotations"] = made["metadata"]["annotations"]
    message = TerminationRecord(reason="ScoringMissing", message="scoring.source is missing or empty.").to_json()
    ended = {"exitCode": 1, "reason": "Error", "message": message}
    status = {"name": "server", "ready": False, "state": {"terminated": ended}}
    pod = child("Pod", "churn-blue-x", owner, {}, {"phase": "Running", "containerStatuses": [status]})
    pod["metadata"]["labels"] = selector(owner, "blue")
    got = planned(owner, children=(live, pod))

    missing = "ConfigMap rentals-scoring not found in team-a, or it is empty. Create it with the key main.py"
    assert missing in condition(got, "Ready")["message"]
    assert condition(got, "Stalled") == {}, "the pod starts by itself when the ConfigMap comes"


def test_an_environment_stays_while_pods_have_it():
    """Another one whose build fails leaves it in the status, and with it the endpoint's look at it."""
    owner = own(environment={"name": "ours"})
    got = planned(owner, environment())
    [made] = [m for m in got.apply if m["kind"] == "Deployment"]
    live = child("Deployment", "churn-blue", owner, made["spec"])
    live["metadata"]["annotations"] = made["metadata"]["annotations"]
    broken = environment("other", conditions=failed("there is no version of lightgbm==99"))
    moved = own(environment={"name": "other"})
    first = planned(moved, environment(), broken, children=(live,))
    moved.manifest["status"] = first.status
    second = planned(moved, environment(), broken, children=(live,))

    assert second.status["deployments"][0]["environment"] == "ours"
    assert next(k for k in KINDS if k.name == "OnlineEndpoint").topics(moved.manifest) >= {
        "environments/ours",
        "environments/other",
    }
    stopped = own(environment={"name": "other"}, replicas=0)
    stopped.manifest["status"] = second.status
    settled = planned(stopped, environment("other"), children=(live,))
    assert settled.status["deployments"][0]["environment"] == "other"


def serving_pods(owner):
    """The live Deployment of version 1 in an Environment, and its ready pod."""
    [made] = [m for m in planned(owner, environment()).apply if m["kind"] == "Deployment"]
    live = child("Deployment", "churn-blue", owner, made["spec"], {"observedGeneration": 1})
    live["metadata"]["annotations"] = made["metadata"]["annotations"]
    ready = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    pod = child("Pod", "churn-blue-x", owner, {}, ready)
    pod["metadata"]["labels"] = selector(owner, "blue")
    pod["metadata"]["annotations"] = {"ultramarine.dev/model-version": "churn-1"}
    return live, pod


def test_a_deleted_environment_is_named_while_its_pods_serve():
    """New pods may lack its archive, so that its users warn; they do not end what serves."""
    owner = own(environment={"name": "ours"})
    live, pod = serving_pods(owner)
    got = planned(owner, children=(live, pod))

    message = "Environment ours, which its pods have, was deleted; apply it again; meanwhile churn-1 is served"
    assert message in got.status["deployments"][0]["message"]
    assert [event.type for event in got.events if event.reason == "Waiting"] == ["Warning"]
    assert not [ref for ref in got.delete if ref.resource.kind == "Deployment"]


def test_an_environment_stays_while_a_deployment_leaves():
    """A pod of a deployment that left the spec may start again until its Deployment is deleted."""
    owner = own(environment={"name": "ours"})
    live, pod = serving_pods(owner)
    moved = endpoint(deployments=[{"name": "green", "model": "churn@1"}])
    got = planned(moved, environment(), children=(live, pod))
    assert got.status["leavingEnvironments"] == ["ours"]
    moved.manifest["status"] = got.status
    assert "environments/ours" in next(k for k in KINDS if k.name == "OnlineEndpoint").topics(moved.manifest)

    assert "leavingEnvironments" not in planned(moved, environment()).status


def test_an_init_that_runs_is_named():
    """The message has its beginning and its limit, so that no further write is needed."""
    owner = own(scoring=INLINE)
    [made] = [m for m in planned(owner).apply if m["kind"] == "Deployment"]
    live = child("Deployment", "churn-blue", owner, made["spec"], {"observedGeneration": 1})
    live["metadata"]["annotations"] = made["metadata"]["annotations"]

    def message(started):
        running = {"running": {"startedAt": "2030-01-01T11:59:00Z"}}
        status = {"name": "server", "ready": False, "started": started, "state": running}
        pod = child("Pod", "churn-blue-x", owner, {}, {"phase": "Running", "containerStatuses": [status]})
        pod["metadata"]["labels"] |= selector(owner, "blue")
        return planned(owner, children=(live, pod)).status["deployments"][0]["message"]

    assert "init() of score.py in pod churn-blue-x runs since 2030-01-01T11:59:00Z, and may take 270 s" in message(
        False
    )
    assert "score.py of pod churn-blue-x no longer answers: its process crashed or exceeded" in message(True)
    assert message(True).endswith("see ultramarine -n team-a endpoints logs churn")


def test_the_server_runs_in_the_image_of_its_environment():
    """The containers with the storage keys keep the platform's; another image is another revision."""
    owner = own(environment={"name": "ours"})
    got, plain = planned(owner, environment(image="team/server:1")), planned(owner, environment())
    images = {name: container["image"] for name, container in containers(pod_of(got)).items()}

    assert images == {"fetch": PLATFORM.server_image, "server": "team/server:1"}
    assert revision(got) != revision(plain) != revision(planned(owner, environment(image="team/server:2")))


def test_a_version_that_is_gone_keeps_the_image_of_its_pods():
    """It scales on as it is."""
    autoscale = {"metric": "concurrency", "target": 1, "minReplicas": 1, "maxReplicas": 2}
    owner = own("churn@latest", environment={"name": "ours"}, autoscale=autoscale)
    [made] = [m for m in planned(owner, environment(image="team/server:1")).apply if m["kind"] == "Deployment"]
    live = child("Deployment", "churn-blue", owner, made["spec"])
    live["metadata"]["annotations"] = made["metadata"]["annotations"]
    assert own_image(live) == "team/server:1"
    got = planned(own("churn@7", environment={"name": "ours"}, autoscale=autoscale), children=(live,))
    assert containers(pod_of(got))["server"]["image"] == "team/server:1"
    assert revision(got) == made["metadata"]["annotations"]["ultramarine.dev/revision"]


def test_an_image_without_the_server_is_named_with_the_remedy():
    """The author of the Environment learns what to build on."""
    owner = own(environment={"name": "ours"})
    [made] = [m for m in planned(owner, environment(image="debian:12")).apply if m["kind"] == "Deployment"]
    live = child("Deployment", "churn-blue", owner, made["spec"], {"observedGeneration": 1, "updatedReplicas": 1})
    live["metadata"]["annotations"] = made["metadata"]["annotations"]
    message = 'exec: "ultramarine-server": executable file not found in $PATH'
    ended = {"exitCode": 128, "reason": "StartError", "message": message}
    status = {"name": "server", "image": "debian:12", "ready": False, "state": {"terminated": ended}}
    pod = child("Pod", "churn-blue-x", owner, {}, {"phase": "Running", "containerStatuses": [status]})
    pod["metadata"]["labels"] = selector(owner, "blue")
    got = planned(owner, environment(image="debian:12"), children=(live, pod))

    assert "debian:12 cannot start our entry point" in condition(got, "Ready")["message"]
    assert "build the image FROM the platform's server image" in condition(got, "Ready")["message"]


def test_the_archive_is_pinned_and_another_one_rolls_the_deployment():
    """Only the fetching container may write the environment; the collector does not see it."""
    got = planned(own(environment={"name": "ours"}), environment())
    pod = pod_of(got)
    fetch, server = containers(pod)["fetch"], containers(pod)["server"]
    assert mounts(fetch)[contract.ENVIRONMENT_DIR]
    assert not mounts(server)[contract.ENVIRONMENT_DIR]
    archive = {"uri": "s3://lake/team-a/environments/ours.tar.zst", "digest": DIGEST, "bytes": 1000}
    assert task_of(fetch)["environment"] == task_of(server)["environment"] == archive
    assert got.status["deployments"][0]["environment"] == "ours"

    another = planned(own(environment={"name": "ours"}), environment(digest="sha256:" + "f" * 64))
    assert len({revision(got), revision(another), revision(planned(own()))}) == 3


def test_an_entry_that_an_inline_source_lacks_is_refused():
    """The author learns of it before a pod starts."""
    with pytest.raises(InvalidSpec, match=r"deployment blue is scor\.py, but source\.inline has only: score\.py"):
        planned(own(scoring={**INLINE, "entry": "scor.py"}))


def test_an_inline_script_is_a_config_map_of_its_revision():
    """Pods of the earlier revision keep their script, which goes when none of them is left."""
    got = planned(own(scoring=INLINE))
    [first] = [m for m in got.apply if m["kind"] == "ConfigMap"]
    server = containers(pod_of(got))["server"]
    assert (first["data"], first["immutable"]) == (SCORE, True)
    assert not mounts(server)[contract.SCORING_DIR]
    assert contract.SCORING_DIR not in mounts(containers(pod_of(got))["fetch"])
    assert task_of(server)["scoring"] == {"entry": "score.py", "source": None}

    changed = own(scoring={"source": {"inline": SCORE | {"more.py": ""}}})
    old = child("ConfigMap", first["metadata"]["name"], changed)
    old["metadata"]["labels"] = first["metadata"]["labels"]
    volumes = [v for v in pod_of(got)["volumes"] if v["name"] == "scoring"]
    pod = child("Pod", "churn-blue-x", changed, {"volumes": volumes})
    live = child("Deployment", "churn-blue", changed, {"replicas": 1, "template": {"spec": {"volumes": volumes}}})
    rolling = planned(changed, children=(old, pod, live))
    assert first["metadata"]["name"] not in [m["metadata"]["name"] for m in rolling.apply]
    assert revision(rolling) != revision(got)
    assert not [ref for ref in rolling.delete if ref.resource.kind == "ConfigMap"]
    stopped = endpoint(
        deployments=[changed.spec.deployments[0].model_dump(by_alias=True, exclude_unset=True) | {"replicas": 0}]
    )
    assert [ref.name for ref in planned(stopped, children=(old,)).delete] == [first["metadata"]["name"]]
    assert not planned(stopped, children=(old, pod)).delete


@pytest.mark.parametrize(
    ("source", "credentials", "keys"),
    [
        ({"git": {"url": "https://git.example.com/a.git", "ref": "v1", "secretRef": {"name": "token"}}}, True, False),
        ({"git": {"url": "https://git.example.com/a.git"}}, False, False),
        ({"uri": "s3://lake/team-a/score.tar.gz", "digest": DIGEST}, False, True),
    ],
)
def test_a_script_elsewhere_is_fetched_by_its_own_container(source, credentials, keys):
    """The fetching container alone has the credentials of a repository, and storage keys only for an archive."""
    got = planned(own(scoring={"source": source, "entry": "src/score.py"}))
    every = containers(pod_of(got))
    assert mounts(every["source"])[contract.SCORING_DIR]
    assert not mounts(every["server"])[contract.SCORING_DIR]
    assert (contract.CREDENTIALS_DIR in mounts(every["source"])) is credentials
    assert contract.CREDENTIALS_DIR not in mounts(every["fetch"]) | mounts(every["server"])
    assert bool(every["source"].get("envFrom")) is keys
    assert "envFrom" not in every["server"]
    assert task_of(every["server"])["scoring"]["entry"] == "src/score.py"
    assert task_of(every["source"])["source"].items() <= task_of(every["server"])["scoring"]["source"].items()


def test_a_new_release_does_not_restart_a_healthy_script():
    """The container that fetches the script keeps its image, as the server does."""
    owner = own(scoring={"source": {"uri": "s3://lake/team-a/score.tar.gz"}})
    [made] = [m for m in planned(owner).apply if m["kind"] == "Deployment"]
    live = child(
        "Deployment", "churn-blue", owner, made["spec"], {"replicas": 1, "updatedReplicas": 1, "availableReplicas": 1}
    )
    live["metadata"]["annotations"] = made["metadata"]["annotations"]
    newer = replace(PLATFORM, server_image="ultramarine/server:2", trainer_image="ultramarine/trainer:2")
    assert pod_of(planned(owner, children=(live,), platform=newer)) == made["spec"]["template"]["spec"]


def test_a_script_gets_the_model_as_registered():
    """A compiled model is for the platform's own code."""
    compiled = version(1, format={"name": "sklearn"})
    compiled["status"]["conditions"].append({"type": "Compiled", "status": "True"})
    compiled["status"]["compiled"] = {"uri": "s3://lake/team-a/compiled/x/model.onnx", "digest": DIGEST}
    for fields, format in (({}, "onnx"), ({"scoring": INLINE}, "sklearn")):
        got = plan(own(**fields), seen(related=(compiled,)), NOW)
        assert task_of(containers(pod_of(got))["server"])["format"] == format


def test_variables_are_those_of_the_server_alone():
    """Containers with storage keys get none; the platform's own comes first, so it takes no value of the author's."""
    got = planned(
        own(
            env=[{"name": "LEVEL", "value": 3}],
            envFrom=[{"secretRef": {"name": "tokens"}, "prefix": "T_"}],
            scoring={"source": {"uri": "s3://lake/team-a/score.tar"}},
        )
    )
    every = containers(pod_of(got))
    assert [v["name"] for v in every["server"]["env"]] == [contract.ENV_TASK, "LEVEL"]
    assert every["server"]["env"][1]["value"] == "3"
    assert every["server"]["envFrom"] == [{"prefix": "T_", "secretRef": {"name": "tokens"}}]
    for name in ("fetch", "source"):
        assert "LEVEL" not in [v["name"] for v in every[name]["env"]]
        assert {"secretRef": {"name": "tokens"}} not in every[name]["envFrom"]
    assert revision(got) != revision(planned(own(scoring={"source": {"uri": "s3://lake/team-a/score.tar"}})))


def test_the_pod_is_placed_as_its_author_asks():
    """The chart's placement stays below; a ServiceAccount brings its token."""
    platform = replace(PLATFORM, pods=MadePods(serving={"nodeSelector": {"pool": "serving"}}))
    template = {
        "nodeSelector": {"gpu": "a100"},
        "serviceAccountName": "reader",
        "sharedMemory": "1Gi",
        "volumes": [{"claimName": "weights", "mountPath": "/mnt/weights", "readOnly": True}],
    }
    pod = pod_of(planned(own(podTemplate=template), platform=platform))
    assert pod["nodeSelector"] == {"pool": "serving", "gpu": "a100"}
    assert (pod["serviceAccountName"], pod["automountServiceAccountToken"]) == ("reader", True)
    server, fetch = containers(pod)["server"], containers(pod)["fetch"]
    assert mounts(server)["/dev/shm"]
    assert not mounts(server)["/mnt/weights"]
    assert not {"/dev/shm", "/mnt/weights"} & set(mounts(fetch))
    assert "sharedMemory" not in pod


def test_another_environment_starts_a_rollout_again():
    """The identity of a rollout has the archive, and none while the environment is built."""
    whole = endpoint(
        deployments=[
            {"name": "a", "model": "churn@1"},
            {"name": "b", "model": "churn@1", "environment": {"name": "ours"}},
        ],
        traffic={"a": 100},
        rollout={"candidate": "b", "steps": [100]},
    )
    names = [identity(whole, seen(related=(version(1), *more))) for more in ((), (environment(),))]
    names.append(identity(whole, seen(related=(version(1), environment(digest="sha256:" + "f" * 64)))))
    assert names[0] == ""
    assert len(set(names)) == 3


def test_an_endpoint_looks_at_its_environments():
    """By the topic that it shares with a named Environment, and with the shared one of its requirements."""
    [kind] = [kind for kind in KINDS if kind.name == "OnlineEndpoint"]
    [made] = planned(own(environment=LIGHTGBM)).create
    assert f"environments/{made['metadata']['name']}" in kind.topics(own(environment=LIGHTGBM).manifest)
    assert kind.topics(own(environment={"name": "ours"}).manifest) == {"churn", "environments/ours"}
    assert kind.topics(own().manifest) == {"churn"}
