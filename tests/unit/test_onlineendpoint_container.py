"""Plans of an OnlineEndpoint whose deployment is a container of the author's."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from builders import DIGEST, NOW, child, condition, endpoint, kinds_of, seen, version
from ultramarine_contract.errors import InvalidSpec
from ultramarine_contract.routes import GATEWAY_PODS, RouteDeployment
from ultramarine_contract.serving_records import ServingTask
from ultramarine_operator.kinds.onlineendpoint.endpoint import LABEL_GATEWAY_ONLY, selector
from ultramarine_operator.kinds.onlineendpoint.plan import plan
from ultramarine_operator.kinds.onlineendpoint.rollout.decide import identity
from ultramarine_operator.kinds.onlineendpoint.routing.manifests import network_policy, routes_in
from ultramarine_operator.shared.testing import merged
from unit.test_onlineendpoint_plan import deployment as server_deployment
from unit.test_onlineendpoint_routed import HERE, KEYS, address, after, having, kept, routes_of

CHAT = {"image": "chat:1", "ports": {"http": 8000}, "readiness": {"path": "/health"}, "startupSeconds": 60}
BLUE = {"name": "blue", "container": CHAT}
START, END = "2030-01-01T11:00:00Z", "2030-01-01T11:01:05Z"


def chat(status=None, spec=None, **fields):
    """An endpoint whose one deployment is a container."""
    return endpoint(status or KEYS, deployments=[merged(BLUE, fields)], **(spec or {}))


def policy(owner):
    """The NetworkPolicy, as it is seen later."""
    made = network_policy(owner, containers=True)
    return child("NetworkPolicy", made["metadata"]["name"], owner, made["spec"])


def made_by(owner, related=(), platform=HERE):
    """The Deployment of a plan behind the gateway."""
    before = replace(seen(policy(owner), related=related), platform=platform)
    got = plan(owner, before, NOW) if platform is not HERE else after(owner, policy(owner), related=related)
    return next(made for made in got.apply if made["kind"] == "Deployment")


def live(owner, related=()):
    """The Deployment as it is seen when all of its pods are ready."""
    made = made_by(owner, related)
    counts = {"replicas": 1, "updatedReplicas": 1, "availableReplicas": 1, "observedGeneration": 1}
    whole = child("Deployment", "churn-blue", owner, made["spec"], counts)
    whole["metadata"]["annotations"] = made["metadata"]["annotations"]
    return whole


def pod(owner, ready=False, **server):
    """A pod of the container, whose status has these fields."""
    status = {"name": "container", "image": "chat:1", "ready": ready, **server}
    conditions = [{"type": "Ready", "status": str(ready)}]
    whole = child("Pod", "churn-blue-x", owner, {"nodeName": "node-1"})
    whole["status"] = {"phase": "Running", "conditions": conditions, "containerStatuses": [status]}
    whole["metadata"]["labels"] = {**selector(owner, "blue"), LABEL_GATEWAY_ONLY: "true"}
    return whole


def test_a_container_gets_nothing_of_the_platform():
    """The author's image runs with its command, ports and variables, without what the platform has."""
    owner = chat(
        container={"command": ["serve"], "args": ["--port=8000"], "user": 1000, "writable": ["/var/run"]},
        env=[{"name": "MODE", "value": "fast"}],
        envFrom=[{"secretRef": {"name": "hub"}}],
        resources={"limits": {"nvidia.com/gpu": 1}},
        requestSettings={"timeoutSeconds": 600},
    )
    spec = made_by(owner)["spec"]["template"]["spec"]
    [server] = spec["containers"]

    assert (server["image"], server["command"], server["args"]) == ("chat:1", ["serve"], ["--port=8000"])
    assert server["env"] == [{"name": "HOME", "value": "/tmp"}, {"name": "MODE", "value": "fast"}]
    assert server["envFrom"] == [{"secretRef": {"name": "hub"}}]
    assert server["ports"] == [{"name": "http", "containerPort": 8000}]
    assert (server["securityContext"]["runAsUser"], server["securityContext"]["readOnlyRootFilesystem"]) == (1000, True)
    assert [mount["mountPath"] for mount in server["volumeMounts"]] == ["/tmp", "/var/run"]
    assert {volume["name"] for volume in spec["volumes"]} == {"tmp", "writable-0"}
    assert "initContainers" not in spec
    assert spec["automountServiceAccountToken"] is False
    assert server["startupProbe"]["failureThreshold"] * server["startupProbe"]["periodSeconds"] == 60
    assert server["readinessProbe"]["httpGet"] == {"path": "/health", "port": "http"}
    assert "livenessProbe" not in server
    assert spec["terminationGracePeriodSeconds"] > 600


@pytest.mark.attack("model/keys-in-server")
def test_the_model_is_fetched_by_a_container_of_the_platform():
    """The init container has the storage keys and the digest; the author's container the files, read-only."""
    owner = chat(model="churn@1")
    spec = made_by(owner, (version(1),))["spec"]["template"]["spec"]
    [fetch], [server] = spec["initContainers"], spec["containers"]

    assert (fetch["image"], fetch["command"]) == ("ultramarine/server:1", ["ultramarine-server", "fetch"])
    assert ServingTask.from_json(fetch["env"][0]["value"]).digest == DIGEST
    assert fetch["envFrom"] == [{"secretRef": {"name": "ultramarine-storage"}}]
    assert {"name": "model", "mountPath": "/mnt/model", "readOnly": True} in server["volumeMounts"]
    assert "envFrom" not in server
    assert {"name": "AZUREML_MODEL_DIR", "value": "/mnt/model"} in server["env"]
    tls = made_by(owner, (version(1),), replace(HERE, tls=True, gateway_namespaces=frozenset({"team-a"})))
    mounts = tls["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]
    assert [mount["mountPath"] for mount in mounts] == ["/mnt/model", "/tmp"]


KEPT = {"samplingRate": 0.1, "uri": "s3://lake/team-a/kept/", "redact": ["age"]}


@pytest.mark.attack("model/collector-keys")
@pytest.mark.parametrize("model", [None, "churn@1"])
def test_a_collector_puts_a_relay_before_the_container(model):
    """The gateway finds the relay's port by the name http; the collector alone has storage keys."""
    owner = chat(model=model, spec={"dataCollector": KEPT}, requestSettings={"timeoutSeconds": 600})
    spec = made_by(owner, (version(1),))["spec"]["template"]["spec"]
    fetching, [collect, relay], [server] = spec["initContainers"][:-2], spec["initContainers"][-2:], spec["containers"]

    assert [container["name"] for container in fetching] == (["fetch"] if model else [])
    assert (collect["name"], relay["name"], relay["restartPolicy"]) == ("collect", "relay", "Always")
    assert relay["ports"] == [{"name": "http", "containerPort": 9903}]
    assert relay["command"][2:] == ["--port", "9903", "--to-host", "$(ULTRAMARINE_POD_IP)", "--to-port", "8000"]
    assert server["ports"] == [{"name": "behind-relay", "containerPort": 8000}]
    assert server["readinessProbe"]["httpGet"] == {"path": "/health", "port": "behind-relay"}
    assert (collect["envFrom"], "envFrom" in relay, "envFrom" in server) == (
        [{"secretRef": {"name": "ultramarine-storage"}}],
        False,
        False,
    )
    tasks = [ServingTask.from_json(container["env"][0]["value"]) for container in (collect, relay)]
    assert tasks[0] == tasks[1]
    assert tasks[0].collect is not None
    assert (tasks[0].collect.redact, tasks[0].model) == (("age",), "churn" if model else "")
    assert "/mnt/captures" not in {mount["mountPath"] for mount in server["volumeMounts"]}
    assert "captures" in {volume["name"] for volume in spec["volumes"]}
    assert spec["terminationGracePeriodSeconds"] > 620


def test_the_relay_evades_the_ports_of_the_container():
    """A container may have the relay's port."""
    owner = chat(container={"ports": {"http": 9903, "grpc": 9904}}, spec={"dataCollector": KEPT})
    relay = made_by(owner)["spec"]["template"]["spec"]["initContainers"][-1]
    assert relay["ports"] == [{"name": "http", "containerPort": 9905}]


def test_a_grpc_server_is_probed_by_a_connection():
    """Without a path, a connection to the port suffices, which is that of gRPC if there is no other."""
    owner = chat(container={"ports": {"http": None, "grpc": 9001}, "readiness": None})
    [server] = made_by(owner)["spec"]["template"]["spec"]["containers"]

    assert server["readinessProbe"]["tcpSocket"] == {"port": "grpc"}


@pytest.mark.attack("client/around-the-gateway")
def test_the_policy_comes_before_the_pods():
    """The pods check no keys: the policy comes first, and lets the gateway alone reach any of their ports."""
    owner = chat()
    first = after(owner)
    assert kinds_of(first.apply) == [
        "NetworkPolicy/churn-gateway-only",
        "Service/churn-blue-pods",
        "ConfigMap/churn-routes",
    ]
    [ingress] = first.apply[0]["spec"]["ingress"]
    assert ingress == {"from": [{"podSelector": {"matchLabels": GATEWAY_PODS}}]}

    labels = made_by(owner)["spec"]["template"]["metadata"]["labels"]
    assert first.apply[0]["spec"]["podSelector"]["matchLabels"].items() <= labels.items()


def test_routes_name_what_a_container_speaks():
    """The route has the container's protocols and its time without data; the Service has the port by its name."""
    owner = chat(requestSettings={"timeoutSeconds": 600})
    got = after(owner)
    [service] = (made for made in got.apply if made["kind"] == "Service")

    assert routes_of(got).deployments == (
        RouteDeployment("blue", "churn-blue-pods", 100, timeout_seconds=600, protocols=("http",), own=True),
    )
    assert service["spec"]["ports"] == [{"name": "http", "port": 8080, "targetPort": "http"}]


def test_a_container_without_a_model_is_ready():
    """Ready does not wait for a version; the status has none."""
    owner = chat()
    config_map = kept(owner, after(owner))
    service = address(owner, routes_in(config_map).port)
    here = (policy(owner), live(owner), pod(owner, ready=True), config_map, service)
    got = after(owner, *here, says=having(config_map))

    assert (condition(got, "Ready")["status"], condition(got, "Ready")["message"]) == ("True", "blue answers")
    assert "modelVersion" not in got.status
    assert got.status["deployments"][0]["state"] == "Ready"
    assert got.delete == ()


def test_a_container_needs_the_gateway():
    """Without a gateway no proxy would check keys, so nothing is made, and the condition says so."""
    owner = chat()
    got = plan(owner, seen(), NOW)

    assert got.apply == ()
    assert "a container needs the gateway, and namespace team-a has none" in condition(got, "Ready")["message"]


def test_a_deployment_keeps_its_sort():
    """A deployment of a model with pods cannot become a container in place; without pods it can."""
    owner = chat()
    model = server_deployment(endpoint(), 1)
    with pytest.raises(InvalidSpec, match="deployment blue serves a model and cannot become a container"):
        after(owner, model, policy(owner))
    model["spec"]["replicas"] = 0
    after(owner, model, policy(owner))
    with pytest.raises(InvalidSpec, match="serves a container and cannot become a model"):
        after(endpoint(), live(owner), policy(owner))


def ended(code=1, message="", reason="Error", finished="2030-01-01T11:00:01Z"):
    """The last state of a container that ended."""
    times = {"startedAt": START, "finishedAt": finished}
    return {"lastState": {"terminated": {"exitCode": code, "message": message, "reason": reason, **times}}}


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (
            {"state": {"running": {"startedAt": START}}, "started": False},
            f"runs since {START}, but GET /health at port 8000 has not succeeded yet.*0.0.0.0:8000.*or correct "
            r"container.ports.http.*200 to 399 within readiness.timeoutSeconds \(3\).*raise startupSeconds \(60\)",
        ),
        ({"state": {"running": {}}, "started": True}, "no longer answers: GET /health at port 8000 fails"),
        (ended(), "exited with code 1; see kubectl -n team-a logs churn-blue-x -c container --previous"),
        (ended(message="Traceback\nKeyError: 'a'"), "exited with code 1: KeyError: 'a'; see"),
        (ended(0), r"exited with code 0, but a server must go on; correct container.command"),
        (ended(137, finished=END), "was ended, since GET /health at port 8000 did not .*let it listen at 0"),
        (
            ended(255, "exec /bin/serve: exec format error"),
            "built for another architecture than that of node node-1 .*or the file that it starts has no #! line",
        ),
        (
            ended(1, "Traceback\nOSError: [Errno 30] Read-only file system: '/app'"),
            "Read-only file system: '/app'; add the folder to container.writable; see",
        ),
        (ended(1, "bind() to 0.0.0.0:80 failed (13: Permission denied)"), "it runs as user 65532: set container.user"),
        (
            ended(
                128,
                "failed to create shim task: OCI runtime create failed: runc create "
                "failed: unable to start container process: error during container init: "
                'exec: "/start.sh": permission denied: unknown',
                "StartError",
            ),
            r'cannot start: exec: "/start.sh": permission denied; make it executable by chmod \+x, .*\[sh, /start.sh\]',
        ),
        (ended(128, 'exec: "x": executable file not found', "StartError"), "cannot start: .*correct container.command"),
        (ended(137, reason="OOMKilled"), "used more memory than its limit.*raise resources.limits.memory"),
        (
            {"state": {"waiting": {"reason": "ErrImagePull", "message": "no match for platform in manifest"}}},
            r"image chat:1 was built for another architecture than that of node node-1\.",
        ),
        (
            {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}},
            "cannot pull image chat:1 for pod churn-blue-x: not found; .*name its registry.*load it onto the nodes",
        ),
    ],
)
def test_what_keeps_a_container_from_answering_is_named(status, words):
    """The message names container or image, the cause and the remedy."""
    owner = chat()
    got = after(owner, policy(owner), live(owner), pod(owner, **status))
    ready = condition(got, "Ready")

    assert ready["status"] == "False"
    assert re.search(words, ready["message"]), ready["message"]


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (ended(0), "code 0, but a server must go on; or GET /live at port 8000 of container.liveness failed and the"),
        (ended(143), "exited with code 143, or GET /live at port 8000 of container.liveness failed and the kubelet"),
        (ended(137, finished=END), "within startupSeconds, or GET /live at port 8000 of container.liveness failed"),
    ],
)
def test_a_failure_of_liveness_is_a_possible_cause(status, words):
    """A server that the kubelet ended may exit with code 0, so the probe is named beside the command."""
    owner = chat(container={"liveness": {"path": "/live"}})
    got = after(owner, policy(owner), live(owner), pod(owner, **status))

    assert re.search(words, condition(got, "Ready")["message"]), condition(got, "Ready")["message"]


def test_a_probe_by_connection_asks_for_no_status():
    """The remedies fit the probe: a connection has no status of HTTP, and the port is that of gRPC."""
    owner = chat(container={"ports": {"http": None, "grpc": 9001}, "readiness": None})
    got = after(owner, policy(owner), live(owner), pod(owner, state={"running": {}}, started=False))
    message = condition(got, "Ready")["message"]

    assert re.search("0.0.0.0:9001.*container.ports.grpc; let it accept connections within", message), message
    assert "399" not in message


def test_a_failure_beside_an_old_pod_is_named_once():
    """Ready names the deployment that answers, and then the failure."""
    green = {"name": "green", "container": CHAT}
    owner = endpoint(KEYS, deployments=[BLUE, green], traffic={"blue": 100})
    config_map = kept(owner, after(owner))
    service = address(owner, routes_in(config_map).port)
    new = pod(owner, state={"waiting": {"reason": "ImagePullBackOff", "message": "not found"}})
    new["metadata"]["name"] = "churn-blue-y"
    older = live(owner)
    older["status"]["updatedReplicas"] = 0
    here = (policy(owner), older, pod(owner, ready=True), new, config_map, service)
    message = condition(after(owner, *here, says=having(config_map)), "Ready")["message"]

    assert re.match("blue answers; cannot pull image", message), message


def test_a_rollout_starts_again_with_another_image():
    """A container without a model can be rolled out; another image is another rollout."""

    def identity_of(image):
        green = {"name": "green", "container": {**CHAT, "image": image}}
        rollout = {"candidate": "green", "steps": [50, 100]}
        return identity(endpoint(deployments=[BLUE, green], traffic={"blue": 100}, rollout=rollout), seen())

    assert len({"", identity_of("chat:2"), identity_of("chat:3")}) == 3


def test_a_container_that_leaves_the_spec_answers_until_another_deployment_does():
    """Its Service keeps the port's name and its policy stays, while requests still go to it."""
    before = chat()
    config_map = kept(before, after(before))
    now = endpoint(KEYS, deployments=[{"name": "green", "model": "churn@1"}])
    service = address(before, routes_in(config_map).port)
    here = (policy(before), live(before), pod(before, ready=True), config_map, service)
    got = after(now, *here, says=having(config_map), related=(version(1),))
    [service] = (made for made in got.apply if made["metadata"]["name"] == "churn-blue-pods")

    assert service["spec"]["ports"] == [{"name": "http", "port": 8080, "targetPort": "http"}]
    assert [route.own for route in routes_of(got).deployments if route.weight] == [True]
    assert got.delete == ()
