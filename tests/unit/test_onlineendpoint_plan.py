"""Plans of an OnlineEndpoint."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from builders import NOW, PLATFORM, child, condition, endpoint, kinds_of, model, seen, training_job, version
from ultramarine.resources.base import UNSEEN
from ultramarine_contract.meta import ANNOTATION_KEYS, KEYS_OF_AUTHOR
from ultramarine_contract.training_records import TerminationRecord
from ultramarine_operator.kinds.onlineendpoint.deployment.manifests import server_deployment
from ultramarine_operator.kinds.onlineendpoint.endpoint import selector
from ultramarine_operator.kinds.onlineendpoint.plan import plan
from ultramarine_operator.kinds.onlineendpoint.resolve import resolve
from ultramarine_operator.kinds.onlineendpoint.routing.manifests import service
from ultramarine_operator.kinds.trainingjob.plan import plan as plan_training
from ultramarine_operator.shared import pods
from ultramarine_operator.shared.conditions import timestamp
from ultramarine_operator.shared.plan import GenerateSecret

TWO = [{"name": "blue", "model": "churn@1"}, {"name": "green", "model": "churn@2"}]


def deployment(owner, number, name="blue", *, rolled=True):
    """The Deployment of one deployment that serves that version of churn; `rolled` when all its pods are new."""
    spec = next(d for d in owner.spec.deployments if d.name == name)
    resolved = resolve(f"churn@{number}", seen(related=(version(number),)))
    built = server_deployment(owner, spec, resolved.spec, PLATFORM, None)
    counts = {"replicas": 1, "updatedReplicas": 1, "availableReplicas": 1}
    status = {"observedGeneration": 1, **counts} if rolled else {"observedGeneration": 1}
    made = child("Deployment", f"churn-{name}", owner, built["spec"], status)
    made["metadata"]["annotations"] = built["metadata"]["annotations"]
    return made


def server_pod(owner, number, name="blue", *, ready=True, **status):
    """A pod of one deployment that serves that version of churn."""
    state = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True" if ready else "False"}], **status}
    made = child("Pod", f"churn-{name}-x", owner, {}, state)
    made["metadata"]["labels"] = selector(owner, name)
    made["metadata"]["annotations"] = {"ultramarine.dev/model-version": f"churn-{number}"}
    made["metadata"]["ownerReferences"] = [{"uid": "a ReplicaSet", "controller": True}]
    return made


def last_words(reason, message):
    """Return the termination message of a container of the platform."""
    return TerminationRecord(reason=reason, message=message).to_json()


def unready(reason):
    """Version 1 that is not ready for that reason; nothing is known of it without one."""
    conditions = [{"type": "Ready", "status": "False", "reason": reason, "message": "..."}] if reason else []
    return {**version(1), "status": {"conditions": conditions}}


def address(owner, name):
    """The Service, turned to one deployment."""
    return child("Service", "churn", owner, service(owner, name)["spec"])


def test_an_endpoint_waits_for_its_model_and_says_so():
    """Before the model exists there is a Service, there are keys, and a message that says how to get the model."""
    owner = endpoint()
    got = plan(owner, seen(), NOW)

    assert kinds_of(got.apply) == ["Service/churn"]
    assert condition(got, "Ready")["status"] == "False"
    assert "registerAs: churn" in condition(got, "Ready")["message"]
    assert isinstance(got.effects[0], GenerateSecret)
    assert got.effects[0].event is None
    assert got.effects[0].metadata["name"] == "churn-keys"


def test_latest_is_the_newest_ready_version():
    """@latest passes over a version that is not ready."""
    got = plan(endpoint(), seen(related=(version(1), version(2), version(3, ready=False))), NOW)

    assert got.status["deployments"][0]["modelVersion"] == "churn-2"
    assert "Deployment/churn-blue" in kinds_of(got.apply)


def test_an_alias_leads_where_the_model_says():
    """MODEL@ALIAS is looked up in the Model; an alias that it lacks is named with those that it has."""
    named = endpoint(deployments=[{"name": "blue", "model": "churn@champion"}])
    got = plan(named, seen(related=(model(aliases={"champion": 1}), version(1), version(2))), NOW)
    assert got.status["deployments"][0]["modelVersion"] == "churn-1"

    got = plan(named, seen(related=(model(aliases={"stable": "1"}), version(1))), NOW)
    assert "no alias champion (it has: stable)" in condition(got, "Ready")["message"]


def test_ready_means_that_pods_of_the_wanted_version_answer():
    """The endpoint is Ready with its URL and version when its pods are."""
    owner = endpoint({"keysSecret": "churn-keys"})
    got = plan(
        owner, seen(deployment(owner, 1), server_pod(owner, 1), address(owner, "blue"), related=(version(1),)), NOW
    )

    assert condition(got, "Ready")["status"] == "True"
    assert got.status["url"] == "http://churn.team-a.svc"
    assert (got.status["modelVersion"], got.status["replicas"]) == ("churn-1", "1/1")
    assert condition(got, "Reconciling") == {}
    assert got.effects == ()


def test_an_endpoint_that_was_not_looked_at_yet_is_not_lost():
    """The condition of the API server's own, before the first look, makes no event of a loss."""
    owner = endpoint({"conditions": [UNSEEN]})

    assert condition(plan(owner, seen(), NOW), "Ready")["status"] == "False"
    assert "NotReady" not in [event.reason for event in plan(owner, seen(), NOW).events]


def test_a_rolling_update_is_no_outage():
    """While new pods come up the endpoint stays Ready, and says which version answers until then."""
    owner = endpoint({"keysSecret": "churn-keys"})
    moving = seen(deployment(owner, 1), server_pod(owner, 1), address(owner, "blue"), related=(version(1), version(2)))
    got = plan(owner, moving, NOW)

    assert condition(got, "Ready")["status"] == "True"
    assert got.status["modelVersion"] == "churn-1"
    assert got.status["deployments"][0]["message"] == "0 of 1 pods of churn-2 are ready"
    assert condition(got, "Ready")["message"] == "churn-1 answers; 0 of 1 pods of churn-2 are ready"
    assert [event.message for event in got.events if event.reason == "Ready"] == ["churn-1 answers"]
    assert condition(got, "Reconciling")["status"] == "True"


def test_a_pod_that_its_successor_replaces_is_leaving():
    """No more pods are ready than the spec asks for: not in the message, and not in the column of `get`."""
    owner = endpoint({"keysSecret": "churn-keys"})
    former, new = server_pod(owner, 1), server_pod(owner, 1)
    new["metadata"]["name"] = "churn-blue-y"
    live = deployment(owner, 1)
    live["status"]["replicas"] = 2
    got = plan(owner, seen(live, former, new, address(owner, "blue"), related=(version(1),)), NOW)

    assert got.status["deployments"][0]["message"] == "1 of 1 pods of churn-1 are ready, 1 more is leaving"
    assert got.status["replicas"] == "1/1"


def test_a_version_that_cannot_be_loaded_is_explained_and_the_old_one_stays():
    """A new pod that fails tells why in the deployment's message, while the old one goes on answering."""
    owner = endpoint({"keysSecret": "churn-keys"})
    record = last_words("ModelCorrupt", "model.skops is not a skops file")
    broken = server_pod(
        owner, 2, ready=False, phase="Pending",
        initContainerStatuses=[{"name": "fetch", "ready": False, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {"exitCode": 1, "reason": "Error", "message": record}}}],
    )  # fmt: skip
    broken["metadata"]["name"] = "churn-blue-y"
    live = deployment(owner, 2, rolled=False)
    got = plan(owner, seen(live, server_pod(owner, 1), broken, address(owner, "blue"), related=(version(2),)), NOW)

    assert got.status["deployments"][0]["state"] == "Failing"
    assert "model.skops is not a skops file" in got.status["deployments"][0]["message"]
    assert got.status["modelVersion"] == "churn-1"
    assert condition(got, "Ready")["status"] == "True"


def crashing(owner, number, reason):
    """A pod that the server has ended for that reason."""
    ended = {"exitCode": 1, "reason": "Error", "message": last_words(reason, "...")}
    waiting = {"waiting": {"reason": "CrashLoopBackOff"}}
    status = {"name": "server", "ready": False, "state": waiting, "lastState": {"terminated": ended}}
    return server_pod(owner, number, ready=False, containerStatuses=[status])


@pytest.mark.parametrize(("reason", "stalls"), [("ModelCorrupt", True), ("Unreachable", False)])
def test_a_model_that_cannot_be_loaded_stalls_the_endpoint_until_an_edit(reason, stalls):
    """Only a cause that another start meets again, and only for pods of the newest spec, stops tools that wait."""
    owner = endpoint({"keysSecret": "churn-keys"})
    live = deployment(owner, 1)
    broken = crashing(owner, 1, reason)
    got = plan(owner, seen(live, broken, address(owner, "blue"), related=(version(1),)), NOW)
    assert bool(condition(got, "Stalled")) is stalls
    assert bool(condition(got, "Reconciling")) is not stalls

    unseen = {**live, "metadata": {**live["metadata"], "generation": 2}}
    for edited in (seen(unseen, broken, related=(version(1),)), seen(live, broken, related=(version(1), version(2)))):
        got = plan(owner, edited, NOW)
        assert condition(got, "Ready")["reason"] == "Failing"
        assert condition(got, "Stalled") == {}


def test_pods_that_fail_for_long_stall_the_endpoint():
    """After Kubernetes' own deadline; pods that only take long are still awaited."""
    owner = endpoint({"keysSecret": "churn-keys"})
    live = deployment(owner, 1)
    given_up = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}
    live["status"]["conditions"] = [given_up]
    waiting = {"reason": "ImagePullBackOff", "message": "no such image"}
    pulling = {"name": "server", "ready": False, "image": "a:1", "state": {"waiting": waiting}}
    for statuses, stalls in (([pulling], True), ([], False)):
        pod = server_pod(owner, 1, ready=False, containerStatuses=statuses)
        got = plan(owner, seen(live, pod, address(owner, "blue"), related=(version(1),)), NOW)
        assert bool(condition(got, "Stalled")) is stalls
    assert "cannot pull image a:1" not in condition(got, "Ready")["message"]


def test_an_invalid_version_stalls_the_endpoint():
    """A version that waits or compiles does not, since it may become ready without an edit."""
    owner = endpoint(deployments=[{"name": "blue", "model": "churn@1"}])
    refused = unready("Invalid")
    refused["status"]["conditions"].append({"type": "Stalled", "status": "True", "reason": "Failed", "message": "..."})
    assert condition(plan(owner, seen(related=(refused,)), NOW), "Stalled")["status"] == "True"
    for waits in (unready("Checking"), unready("")):
        assert condition(plan(owner, seen(related=(waits,)), NOW), "Stalled") == {}


def test_traffic_turns_only_to_ready_pods():
    """Giving green 100 leaves the Service at blue until green is ready, then turns it."""
    owner = endpoint({"keysSecret": "churn-keys"}, deployments=TWO, traffic={"green": 100})
    blue = (deployment(owner, 1), server_pod(owner, 1), address(owner, "blue"))
    both = (version(1), version(2))
    early = plan(owner, seen(*blue, deployment(owner, 2, "green", rolled=False), related=both), NOW)
    assert early.status["traffic"] == {"blue": 100}
    assert early.apply[-1]["spec"]["selector"]["ultramarine.dev/deployment"] == "blue"

    ready = (deployment(owner, 2, "green"), server_pod(owner, 2, "green"))
    late = plan(owner, seen(*blue, *ready, related=both), NOW)
    assert late.status["traffic"] == {"green": 100}
    assert late.after is not None
    assert late.apply[-1]["spec"]["selector"]["ultramarine.dev/deployment"] == "green"


def test_a_removed_deployment_goes_when_nobody_is_sent_to_it():
    """blue leaves the spec: it is kept while the Service is turned to it, and deleted afterwards."""
    before = endpoint({"keysSecret": "churn-keys"}, deployments=TWO, traffic={"blue": 100})
    blue = (deployment(before, 1), server_pod(before, 1))
    owner = endpoint({"keysSecret": "churn-keys"}, deployments=TWO[1:])
    ready = (deployment(owner, 2, "green"), server_pod(owner, 2, "green"))

    still = plan(owner, seen(*blue, *ready, address(owner, "blue"), related=(version(2),)), NOW)
    assert still.delete == ()
    assert still.status["traffic"] == {"green": 100}

    after = plan(owner, seen(*blue, *ready, address(owner, "green"), related=(version(2),)), NOW)
    assert [ref.name for ref in after.delete] == ["churn-blue"]


def test_an_alias_to_nowhere_does_not_end_what_serves():
    """When the reference no longer resolves, the Deployment is neither changed nor deleted."""
    owner = endpoint({"keysSecret": "churn-keys"})
    got = plan(owner, seen(deployment(owner, 1), server_pod(owner, 1), address(owner, "blue")), NOW)

    assert kinds_of(got.apply) == ["Service/churn"]
    assert got.delete == ()
    assert condition(got, "Ready")["status"] == "True"
    assert "meanwhile churn-1 is served" in condition(got, "Ready")["message"]


def served(owner, *related):
    """The plan of an endpoint that serves version 1 and knows it, beside these objects."""
    first = plan(
        owner, seen(deployment(owner, 1), server_pod(owner, 1), address(owner, "blue"), related=(version(1),)), NOW
    )
    after = replace(owner, manifest={**owner.manifest, "status": {**first.status, "keysSecret": "churn-keys"}})
    around = seen(deployment(owner, 1), server_pod(owner, 1), address(owner, "blue"), related=related)
    return plan(after, around, NOW)


@pytest.mark.parametrize(
    ("reference", "related", "words"),
    [
        ("churn@1", (version(2),), "ModelVersion churn-1 no longer exists (there are: 2); apply it, or name a"),
        ("churn@1", (), "ModelVersion churn-1 no longer exists (there are: none); apply it, or name a version"),
        ("churn@latest", (), "Model churn has no version any more; a TrainingJob with registerAs: churn makes one"),
        ("churn@champion", (), "Model churn no longer exists; apply it, or train it with registerAs: churn"),
        (
            "churn@champion",
            (model(aliases={"champion": "1"}), version(2)),
            "alias champion of Model churn leads to ModelVersion churn-1, which no longer exists (there are: 2); apply "
            "it, or set spec.aliases.champion of the Model to a version that exists",
        ),
    ],
)
def test_what_was_served_and_is_gone_is_told_so(reference, related, words):
    """Its pods go on; the condition says what is gone, what becomes of a new pod, and what a user can do."""
    owner = endpoint(deployments=[{"name": "blue", "model": "churn@1"}])
    owner = endpoint({**served(owner, version(1)).status}, deployments=[{"name": "blue", "model": reference}])
    got = served(owner, *related)
    message = condition(got, "Ready")["message"]
    assert message.startswith(f"churn-1 answers; {words}")
    assert message.endswith(
        "meanwhile churn-1 is served. A new pod of it starts only if its stored files still exist, and edits of the "
        "deployment wait"
    )
    assert (condition(got, "Ready")["status"], got.delete, kinds_of(got.apply)) == ("True", (), ["Service/churn"])


def test_a_version_that_never_was_is_not_said_to_be_gone():
    """Another number is asked for than the one that is served."""
    owner = endpoint(deployments=[{"name": "blue", "model": "churn@1"}])
    owner = endpoint({**served(owner, version(1)).status}, deployments=[{"name": "blue", "model": "churn@9"}])
    assert (
        "ModelVersion churn-9 does not exist yet (there are: 1)"
        in served(owner, version(1)).status["deployments"][0]["message"]
    )


@pytest.mark.parametrize(
    ("reference", "related", "level"),
    [
        ("churn@latest", (), "Normal"),  # a training may be on its way
        ("churn@1", (unready(""),), "Normal"),
        ("churn@1", (), "Warning"),
        ("churn@champion", (), "Warning"),
        ("churn@champion", (model(aliases={"stable": "1"}),), "Warning"),
        ("churn@champion", (model(aliases={"champion": "7"}),), "Warning"),
        ("churn@1", (unready("Unreachable"),), "Normal"),
        ("churn@1", (unready("Compiling"),), "Normal"),
        ("churn@latest", (unready("BucketNotFound"),), "Warning"),
        ("churn@1", (unready("CodeExecutionRefused"),), "Warning"),
    ],
)
def test_waiting_that_only_a_person_can_end_is_a_warning(reference, related, level):
    """A wait that may end by itself is a normal event."""
    got = plan(endpoint(deployments=[{"name": "blue", "model": reference}]), seen(related=related), NOW)
    assert [event.type for event in got.events if event.reason == "Waiting"] == [level]


def test_a_new_release_of_the_platform_does_not_restart_what_serves():
    """A live Deployment keeps its server image until its own spec or model changes."""
    owner = endpoint({"keysSecret": "churn-keys"})
    world = seen(deployment(owner, 1), server_pod(owner, 1), address(owner, "blue"), related=(version(1),))
    newer = replace(world, platform=replace(PLATFORM, server_image="ultramarine/server:2"))
    container = plan(owner, newer, NOW).apply[0]["spec"]["template"]["spec"]["containers"][0]
    assert container["image"] == "ultramarine/server:1"

    moved = replace(newer, related=(version(1), version(2)))
    container = plan(owner, moved, NOW).apply[0]["spec"]["template"]["spec"]["containers"][0]
    assert container["image"] == "ultramarine/server:2"


def test_a_new_release_may_cure_what_does_not_serve():
    """A Deployment without ready pods takes the new release's image at once."""
    owner = endpoint({"keysSecret": "churn-keys"})
    world = seen(deployment(owner, 1, rolled=False), address(owner, "blue"), related=(version(1),))
    newer = replace(world, platform=replace(PLATFORM, server_image="ultramarine/server:2"))
    container = plan(owner, newer, NOW).apply[0]["spec"]["template"]["spec"]["containers"][0]
    assert container["image"] == "ultramarine/server:2"


def test_keys_that_a_pod_misses_are_made_again():
    """The operator may not read Secrets: the pod that waits for a deleted one reports it."""
    owner = endpoint({"keysSecret": "churn-keys"})
    ended = {"exitCode": 1, "reason": "Error", "message": last_words("KeysMissing", "no key in …")}
    crashed = {"name": "server", "ready": False, "state": {"terminated": ended}}
    pod = server_pod(owner, 1, ready=False, containerStatuses=[crashed])
    got = plan(owner, seen(deployment(owner, 1, rolled=False), pod, related=(version(1),)), NOW)
    (made,) = got.effects
    assert made.event is not None
    assert made.event.reason == "KeysReplaced"
    assert "Secret churn-keys not found in team-a" in got.status["deployments"][0]["message"]


def test_keys_of_the_author_are_awaited_before_they_are_made():
    """An author who announces keys creates them right after the endpoint; if that fails, the operator makes them."""
    owner = endpoint()
    metadata = owner.manifest["metadata"]
    metadata["annotations"] = {ANNOTATION_KEYS: KEYS_OF_AUTHOR}
    ended = {"exitCode": 1, "reason": "Error", "message": last_words("KeysMissing", "no key in …")}
    crashed = {"name": "server", "ready": False, "state": {"terminated": ended}}
    missed = seen(server_pod(owner, 1, ready=False, containerStatuses=[crashed]), related=(version(1),))
    metadata["creationTimestamp"] = timestamp(NOW - timedelta(seconds=20))
    first = plan(owner, missed, NOW)
    assert first.effects == ()
    owner.manifest["status"] = first.status
    assert plan(owner, missed, NOW).effects == (), "the status names the Secret from the first pass on"

    metadata["creationTimestamp"] = timestamp(NOW - timedelta(seconds=40))
    assert plan(owner, seen(related=(version(1),)), NOW).effects == (), "no one misses them"
    got = plan(owner, missed, NOW)
    assert [effect.metadata["name"] for effect in got.effects] == ["churn-keys"]


def test_replicas_bring_a_disruption_budget():
    """Two pods and more have a budget that lets a drain take one at a time; a single pod has none."""
    pair = endpoint(deployments=[{"name": "blue", "model": "churn@1", "replicas": 2}])
    assert "PodDisruptionBudget/churn-blue" in kinds_of(plan(pair, seen(related=(version(1),)), NOW).apply)
    assert kinds_of(plan(endpoint(), seen(related=(version(1),)), NOW).apply) == [
        "Deployment/churn-blue",
        "Service/churn",
    ]

    alone = endpoint({"keysSecret": "churn-keys"})
    live = (deployment(alone, 1), server_pod(alone, 1), address(alone, "blue"))
    budget = child("PodDisruptionBudget", "churn-blue", alone)
    got = plan(alone, seen(*live, budget, related=(version(1),)), NOW)
    assert [(ref.resource.kind, ref.name) for ref in got.delete] == [("PodDisruptionBudget", "churn-blue")]


@pytest.mark.attack(
    "model/keys-in-server",
    asset="storage keys",
    threat="the model's code reads them",
    control="only the init container has them; the serving one never",
)
def test_the_serving_container_has_no_storage_keys():
    """Only the fetching container gets the storage Secret."""
    spec = plan(endpoint(), seen(related=(version(1),)), NOW).apply[0]["spec"]["template"]["spec"]
    assert spec["initContainers"][0]["envFrom"] == [{"secretRef": {"name": "ultramarine-storage"}}]
    assert "envFrom" not in spec["containers"][0]


def test_who_answers_keeps_its_pods_until_the_turn():
    """Scaling blue down in the edit that gives green 100 takes nothing from blue while it still answers."""
    before = endpoint({"keysSecret": "churn-keys"}, deployments=TWO, traffic={"blue": 100})
    down = [{**TWO[0], "replicas": 0}, TWO[1]]
    owner = endpoint({"keysSecret": "churn-keys"}, deployments=down, traffic={"green": 100})
    blue = (deployment(before, 1), server_pod(before, 1), address(before, "blue"))
    got = plan(owner, seen(*blue, deployment(owner, 2, "green", rolled=False), related=(version(1), version(2))), NOW)

    assert got.status["traffic"] == {"blue": 100}
    assert got.apply[0]["spec"]["replicas"] == 1


def test_traffic_does_not_turn_to_another_version_than_the_one_asked_for():
    """green still runs 1 and cannot load 2: its old ready pods do not count for it."""
    owner = endpoint({"keysSecret": "churn-keys"}, deployments=TWO, traffic={"green": 100})
    blue = (deployment(owner, 1), server_pod(owner, 1), address(owner, "blue"))
    ended = {"exitCode": 1, "reason": "Error", "message": last_words("ModelCorrupt", "broken")}
    broken = server_pod(owner, 2, "green", ready=False, containerStatuses=[{"state": {"terminated": ended}}])
    broken["metadata"]["name"] = "churn-green-new"
    green = (deployment(owner, 2, "green", rolled=False), server_pod(owner, 1, "green"), broken)
    got = plan(owner, seen(*blue, *green, related=(version(1), version(2))), NOW)

    assert got.status["deployments"][1]["state"] == "Failing"
    assert got.status["traffic"] == {"blue": 100}


def test_a_service_deleted_in_the_middle_of_a_switch_comes_back_where_it_was():
    """Without the Service the status names the deployment that answered; such a pass deletes nothing."""
    before = endpoint({"keysSecret": "churn-keys"}, deployments=TWO, traffic={"blue": 100})
    status = {"keysSecret": "churn-keys", "traffic": {"blue": 100}}
    owner = endpoint(status, deployments=TWO[1:])
    world = (deployment(before, 1), server_pod(before, 1), deployment(owner, 2, "green", rolled=False))
    got = plan(owner, seen(*world, related=(version(2),)), NOW)

    assert got.apply[-1]["spec"]["selector"]["ultramarine.dev/deployment"] == "blue"
    assert got.delete == ()


def test_a_renamed_deployment_is_no_outage():
    """blue, which the spec no longer has, answers until green is ready: the endpoint stays Ready and says so."""
    before = endpoint({"keysSecret": "churn-keys"}, deployments=TWO, traffic={"blue": 100})
    owner = endpoint({"keysSecret": "churn-keys"}, deployments=TWO[1:])
    blue = (deployment(before, 1), server_pod(before, 1), address(before, "blue"))
    got = plan(owner, seen(*blue, deployment(owner, 2, "green", rolled=False), related=(version(2),)), NOW)

    assert condition(got, "Ready")["status"] == "True"
    assert got.status["modelVersion"] == "churn-1"
    assert condition(got, "Reconciling")["status"] == "True"


def test_scaling_after_an_upgrade_restarts_nobody():
    """More replicas of what is well keep the image that the others run."""
    more = endpoint({"keysSecret": "churn-keys"}, deployments=[{"name": "blue", "model": "churn@1", "replicas": 3}])
    world = seen(deployment(more, 1), server_pod(more, 1), address(more, "blue"), related=(version(1),))
    newer = replace(world, platform=replace(PLATFORM, server_image="ultramarine/server:2"))
    container = plan(more, newer, NOW).apply[0]["spec"]["template"]["spec"]["containers"][0]
    assert container["image"] == "ultramarine/server:1"


def test_an_edit_is_not_done_before_its_rollout():
    """Changed resources make the endpoint Reconciling at once, though the old pods are all ready."""
    owner = endpoint({"keysSecret": "churn-keys"})
    limits = {"limits": {"memory": "1Gi"}}
    edited = endpoint(
        {"keysSecret": "churn-keys"}, deployments=[{"name": "blue", "model": "churn@1", "resources": limits}]
    )
    got = plan(
        edited, seen(deployment(owner, 1), server_pod(owner, 1), address(owner, "blue"), related=(version(1),)), NOW
    )
    assert condition(got, "Reconciling")["status"] == "True"
    assert condition(got, "Ready")["status"] == "True"


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("exceeded quota: pods", "exceeded quota: pods"),
        (
            'pods "a-" is forbidden: error looking up service account team-a/b: serviceaccount "b" not found',
            'serviceaccount "b" not found; create it, or correct deployments[].podTemplate.serviceAccountName',
        ),
    ],
)
def test_pods_that_kubernetes_does_not_make_are_told_with_its_words(message, words):
    """A quota, a policy or a missing object that keeps pods away is in the deployment's message, with the field."""
    owner = endpoint()
    live = deployment(owner, 1, rolled=False)
    live["status"]["conditions"] = [{"type": "ReplicaFailure", "status": "True", "message": message}]
    got = plan(owner, seen(live, address(owner, "blue"), related=(version(1),)), NOW)

    assert got.status["deployments"][0]["state"] == "Failing"
    assert words in got.status["deployments"][0]["message"]


def test_pods_get_the_secrets_of_a_private_registry():
    """Images that were pushed to a private registry can be pulled by pods that serve and that train."""
    platform = replace(PLATFORM, image_pull_secrets=("registry",))
    observed = replace(seen(related=(version(1),)), platform=platform)
    serving = next(m for m in plan(endpoint(), observed, NOW).apply if m["kind"] == "Deployment")
    training = plan_training(training_job(), observed, NOW).apply[-1]

    for child_ in (serving, training):
        assert child_["spec"]["template"]["spec"]["imagePullSecrets"] == [{"name": "registry"}]


@pytest.mark.parametrize(
    ("kind", "authors"),
    [
        ("OnlineEndpoint", "deployments[].podTemplate.nodeSelector, deployments[].podTemplate.affinity or "),
        ("ModelVersion", ""),
    ],
)
def test_the_fields_that_place_a_pod_are_named(kind, authors):
    """A pod that compiles has no podTemplate, which a hint could name."""
    unplaced = {"type": "PodScheduled", "status": "False", "message": "didn't match Pod's node affinity/selector"}
    labels = {"ultramarine.dev/kind": kind}
    pod = {"metadata": {"name": "churn", "labels": labels}, "status": {"conditions": [unplaced]}}

    assert (trouble := pods.trouble(pod))
    assert trouble.message.endswith(f"; correct {authors}the chart's serving.nodeSelector, or add a node")


def test_an_address_that_is_too_long_is_cut():
    """The installation chooses the form of addresses: the rest of the status is written all the same."""
    owner = endpoint()
    owner.manifest["metadata"]["namespace"] = "n" * 600
    assert len(plan(owner, seen(), NOW).status["url"]) == 512


def test_a_version_that_an_earlier_release_accepted_is_not_served():
    """Its spec is not the endpoint's: the deployment waits, and says for what."""
    old = version(1)
    old["spec"]["format"] = {"name": "tarball"}
    got = plan(endpoint(deployments=TWO[:1]), seen(related=(model(), old)), NOW)
    assert "the spec of ModelVersion churn-1 is not valid" in condition(got, "Ready")["message"]
