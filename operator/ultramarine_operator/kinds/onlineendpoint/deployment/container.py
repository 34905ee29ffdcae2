"""Deployments of an author's own container: the pod around it, and why it does not become ready."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ultramarine.resources.model import ModelVersionSpec, version_name
from ultramarine.resources.onlineendpoint_container import Container, ContainerProbe
from ultramarine.resources.onlineendpoint_deployment import EndpointDeployment, RequestSettings
from ultramarine_contract import common as contract
from ultramarine_contract.lastwords import last_words
from ultramarine_contract.meta import Manifest
from ultramarine_contract.serving_records import ServingTask

from ....shared import pods
from ....shared.conditions import parse_timestamp
from ....shared.plan import Platform
from ....shared.podspec import CONTAINER_SECURITY, scratch, template_volumes
from ..endpoint import ANNOTATION_VERSION, Endpoint
from .manifests import DRAIN_SECONDS, FETCH, deployment_of
from .own_code import TMP, authors_env
from .sidecars import RELAY, collect_task

CONTAINER = "container"  # name of the author's container in the pod
GRACE_SECONDS = 50  # at least, from the end of the drain to SIGKILL
STORING_SECONDS = 30  # of the sidecars that end after the container
BEHIND_RELAY = "behind-relay"  # name of the container's port if a relay has the port named http
_ARCHITECTURE = re.compile(r"exec format error|no match(?:ing)? (?:for platform|manifest)", re.IGNORECASE)
_NO_MATCH = re.compile(r"no match", re.IGNORECASE)  # of the architecture in the registry's list
_LACKS_PROGRAM = re.compile(r"executable file .*not found|no such file or directory", re.IGNORECASE)
_READ_ONLY = re.compile(r"read-only file ?system", re.IGNORECASE)
_FORBIDDEN = re.compile(r"permission denied|operation not permitted", re.IGNORECASE)
_RUNTIME = re.compile(r"^.*(?:unable to start container process|container init): |: unknown$", re.DOTALL)
_PROGRAM = re.compile(r'exec: "([^"]+)"')
_KILLED = (0, 137, 143)  # exit codes of a server that the kubelet ends


def container_deployment(
    endpoint: Endpoint,
    deployment: EndpointDeployment,
    container: Container,
    model: ModelVersionSpec | None,
    platform: Platform,
    live: Manifest | None,
) -> Manifest:
    """Return the Deployment whose pods run the container, with the model in MODEL_DIR if there is one."""
    task, version, collect = "", {}, collect_task(endpoint, deployment)
    if model is not None:
        # Only what the platform's containers need: other fields must not restart the pods.
        fetched = ServingTask(model.model, model.version, model.uri, model.digest, model.format.name, collect=collect)
        task, version = fetched.to_json(), {ANNOTATION_VERSION: version_name(model.model, model.version)}
    elif collect is not None:
        task = ServingTask("", "", "", "", "", collect=collect).to_json()
    made = deployment_of(endpoint, deployment, task, version, platform, live)
    _put_into(made["spec"]["template"]["spec"], deployment, container)
    return made


def _put_into(pod: Manifest, deployment: EndpointDeployment, container: Container) -> None:
    """Put the container in the place of the platform's server, without anything of the platform except the model."""
    [server] = pod["containers"]
    pod["initContainers"] = [c for c in pod["initContainers"] if c["name"] != FETCH or deployment.model]
    has_relay = any(c["name"] == RELAY for c in pod["initContainers"])
    if not pod["initContainers"]:
        del pod["initContainers"]
    writable = {f"writable-{number}": path for number, path in enumerate(container.writable)}
    mounts: list[Manifest] = [
        *([{"name": "model", "mountPath": contract.MODEL_DIR, "readOnly": True}] if deployment.model else []),
        {"name": TMP, "mountPath": "/tmp"},
        *({"name": name, "mountPath": path} for name, path in writable.items()),
        *template_volumes(deployment.pod_template)[1],
    ]
    used = {mount["name"] for c in pod.get("initContainers", []) for mount in c["volumeMounts"]}
    used |= {mount["name"] for mount in mounts}
    folders = [scratch(name, server["resources"]) for name in writable]
    pod["volumes"] = [*(volume for volume in pod["volumes"] if volume["name"] in used), *folders]
    settings = deployment.request_settings or RequestSettings()
    # Answers under way may take this long.
    grace = DRAIN_SECONDS + max(GRACE_SECONDS, int(settings.timeout_seconds))
    pod["terminationGracePeriodSeconds"] = grace + (STORING_SECONDS if has_relay else 0)
    ports = container.ports.model_dump(exclude_none=True)
    if has_relay:  # The gateway finds a port by its name.
        ports[BEHIND_RELAY] = ports.pop("http")
    once = {"periodSeconds": 1, "failureThreshold": container.startup_seconds}
    liveness = container.liveness
    pod["containers"] = [
        {
            "name": CONTAINER,
            "image": container.image,
            "imagePullPolicy": server["imagePullPolicy"],
            **({"command": container.command} if container.command else {}),
            **({"args": container.args} if container.args else {}),
            **_env(deployment),
            "ports": [{"name": name, "containerPort": port} for name, port in ports.items()],
            "resources": server["resources"],
            "securityContext": {**CONTAINER_SECURITY, "runAsUser": container.user},
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "volumeMounts": mounts,
            "startupProbe": _probe(ports, container.readiness) | once,
            "readinessProbe": _probe(ports, container.readiness),
            **({"livenessProbe": _probe(ports, liveness)} if liveness else {}),
            "lifecycle": server["lifecycle"],
        }
    ]


def _env(deployment: EndpointDeployment) -> Manifest:
    """Return the variables: HOME, a folder that exists for any user, and the author's."""
    folders = {"HOME": "/tmp"} | ({"AZUREML_MODEL_DIR": contract.MODEL_DIR} if deployment.model else {})
    own = authors_env(deployment)
    named = {variable["name"] for variable in own["env"]}
    ours = [{"name": name, "value": value} for name, value in folders.items() if name not in named]
    return {**own, "env": [*ours, *own["env"]]}


def _probe(ports: Iterable[str], probe: ContainerProbe) -> Manifest:
    """Return a probe at the port for HTTP, or at that for gRPC if it is the only one; `ports` are names."""
    port = next((name for name in ports if name != "grpc"), "grpc")
    action = {"httpGet": {"path": probe.path, "port": port}} if probe.path else {"tcpSocket": {"port": port}}
    return {
        **action,
        "periodSeconds": probe.period_seconds,
        "timeoutSeconds": probe.timeout_seconds,
        "failureThreshold": probe.failure_threshold,
    }


def has_container(live: Manifest) -> bool:
    """True if the pods of a live Deployment run a container of the author's instead of the platform's server."""
    pod = (live["spec"].get("template") or {}).get("spec") or {}
    return any(container.get("name") == CONTAINER for container in pod.get("containers") or [])


def why_unready(pod: Manifest, container: Container) -> tuple[str, str] | None:
    """Return the state of a pod whose container is not ready, and a message; None if the container is not the cause."""
    listed = (pod.get("status") or {}).get("containerStatuses") or []
    status = next((status for status in listed if status.get("name") == CONTAINER), None)
    if status is None:
        return None
    state, last = status.get("state") or {}, (status.get("lastState") or {}).get("terminated")
    waiting, ended = state.get("waiting") or {}, state.get("terminated") or last
    if waiting.get("reason") in pods.IMAGE_REASONS and _ARCHITECTURE.search(str(waiting.get("message"))):
        return "Failing", _of_another_architecture(pod, container, str(waiting["message"]))
    if ended and not status.get("ready"):
        return "Failing", _why_ended(pod, container, status, ended)
    if "running" not in state or status.get("ready"):
        return None
    name, expected = pod["metadata"]["name"], _expected(container)
    look = f"kubectl -n {pod['metadata']['namespace']} describe pod {name}"
    if status.get("started"):
        limit = f"or takes longer than readiness.timeoutSeconds ({container.readiness.timeout_seconds})"
        return "Updating", f"the container of pod {name} no longer answers: {expected} fails, {limit}; see {look}"
    since = f" since {start}" if (start := state["running"].get("startedAt")) else ""
    return "Updating", (
        f"the container of pod {name} runs{since}, but {expected} has not succeeded yet. If that lasts: "
        f"{_remedies(container)}. Read the probe's failure with {look}"
    )


def _expected(container: Container, probe: ContainerProbe | None = None) -> str:
    """Name a probe, by default that of readiness."""
    port, path = container.ports.http or container.ports.grpc, (probe or container.readiness).path
    return f"GET {path} at port {port}" if path else f"a connection to port {port}"


def _remedies(container: Container) -> str:
    """Return what lets the first probe succeed, with the numbers of the spec."""
    ports, probe = container.ports, container.readiness
    port, name = (ports.http, "http") if ports.http else (ports.grpc, "grpc")
    answer = "answer 200 to 399" if probe.path else "accept connections"
    return (
        f"let it listen at 0.0.0.0:{port} rather than 127.0.0.1, or correct container.ports.{name}; "
        f"let it {answer} within readiness.timeoutSeconds ({probe.timeout_seconds}); "
        f"or raise startupSeconds ({container.startup_seconds})"
    )


def _why_ended(pod: Manifest, container: Container, status: Manifest, ended: Manifest) -> str:
    meta, words = pod["metadata"], str(ended.get("message") or "")
    title = f"the container of pod {meta['name']}"
    log = f"kubectl -n {meta['namespace']} logs {meta['name']} -c {CONTAINER} --previous"
    if ended.get("reason") == pods.OUT_OF_MEMORY:
        return pods.assess(pod, {**status, "state": {"terminated": ended}}).sentence
    if _ARCHITECTURE.search(words):
        return _of_another_architecture(pod, container, words)
    if ended.get("reason") in ("StartError", "ContainerCannotRun"):
        cause = _RUNTIME.sub("", words)
        remedy = "correct container.command" if _LACKS_PROGRAM.search(cause) else "see the events of the pod"
        if (program := _PROGRAM.search(cause)) and _FORBIDDEN.search(cause):
            remedy = f"make it executable by chmod +x, or set container.command, as [sh, {program[1]}] for a script"
        return f"{title} cannot start: {cause}; {remedy}"
    code, seconds, live = ended.get("exitCode"), _seconds(ended), container.liveness
    killed = f"{_expected(container, live)} of container.liveness failed and the kubelet ended it" if live else ""
    if code in _KILLED and seconds >= container.startup_seconds:
        return (
            f"{title} was ended, since {_expected(container)} did not succeed within startupSeconds"
            f"{f', or {killed}' if killed else ''}. Remedies: {_remedies(container)}; see {log}"
        )
    if code == 0:
        cause = f"exited with code 0, but a server must go on{f'; or {killed}' if killed else ''}"
        correct = f"correct container.command or container.args{', or liveness' if live else ''}"
        return f"{title} {cause}; {correct}; see {log}"
    tail = last_words(words.splitlines())
    cause = f"exited with code {code}{f': {tail}' if tail else ''}"
    if code in _KILLED and killed:
        return f"{title} {cause}, or {killed}; see {log}"
    return f"{title} {cause}; {_remedy_of_files(container, tail, words)}see {log}"


def _remedy_of_files(container: Container, *texts: str) -> str:
    """Return the remedy for a file that the server may not write or open, by the first text that names the trouble."""
    for text in texts:
        if _READ_ONLY.search(text):
            return "add the folder to container.writable; "
        if _FORBIDDEN.search(text):
            return f"it runs as user {container.user}: set container.user, or change the owner in the image; "
    return ""


def _of_another_architecture(pod: Manifest, container: Container, words: str) -> str:
    node = f" {name}" if (name := (pod.get("spec") or {}).get("nodeName")) else ""
    built = f"image {container.image} was built for another architecture than that of node{node}"
    if not _NO_MATCH.search(words):
        built += " (exec format error), or the file that it starts has no #! line"
    return f"{built}. Build it for that one, or choose nodes by podTemplate.nodeSelector"


def _seconds(ended: Manifest) -> int:
    """Return the time that a container ran."""
    moments = [ended.get("startedAt"), ended.get("finishedAt")]
    if not all(moments):
        return 0
    start, end = (parse_timestamp(str(moment)) for moment in moments)
    return max(0, round((end - start).total_seconds()))
