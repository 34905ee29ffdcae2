"""Pods that exist: what a pod's status says, in words for users."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from ultramarine_contract import common as contract
from ultramarine_contract.lastwords import LONGEST, last_words, remedy
from ultramarine_contract.meta import LABEL_KIND, LABEL_NAME, TRAINING_JOB, Manifest
from ultramarine_contract.training_records import TerminationRecord

from .conditions import parse_timestamp
from .podspec import DISK

INDEX = "batch.kubernetes.io/job-completion-index"
JOB_NAME = "batch.kubernetes.io/job-name"
PLACED_AS_SERVERS = ("OnlineEndpoint", "Model", "ModelVersion")  # kinds whose pods the chart's `serving` places
TRAINER = "trainer"  # the container of a training pod that runs the command
BACKOFF_LIMIT = 6  # of a Job that has none

# A container that waits for one of these waits for a person, or for luck.
TROUBLED_WAITING = {
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "ImageInspectError",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
    "CrashLoopBackOff",
}
OUT_OF_MEMORY = "OOMKilled"
EVICTED = "Evicted"  # the kubelet's word
IMAGE_NOT_SUITABLE = "ImageNotSuitable"
_LACKS_WHOLE = re.compile(r"Insufficient \S+/")  # a resource that cannot be shared, in the scheduler's words
_OVER_LIMIT = re.compile(r"exceed(?:s|ed) (?:the|its) .*limit")  # of local disk, in the kubelet's words
_OTHER_IMAGE = "build the image FROM the platform's trainer image, or leave spec.image out"
_OTHER_SERVER = "build the image FROM the platform's server image, or name an Environment without spec.image"
_LACKS_PROGRAM = re.compile(r'executable file .*not found|exec: "[^"]*": (exec format|permission)', re.IGNORECASE)
IMAGE_REASONS = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"}


@dataclass(frozen=True)
class Trouble:
    """Why a pod does not run: a word, and a sentence with the remedy."""

    reason: str
    message: str


@dataclass(frozen=True)
class Verdict:
    """Why a container failed."""

    reason: str
    pod: str
    exit_code: int | None
    message: str
    tail: str
    hint: str

    @property
    def sentence(self) -> str:
        """Return what happened and the remedy, in one line."""
        return f"{self.message}; {self.hint}" if self.hint else self.message


def statuses(pod: Manifest) -> list[Manifest]:
    """Return the statuses of init and main containers, in the order in which they run."""
    status = pod.get("status") or {}
    return [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]


def is_running(pod: Manifest) -> bool:
    """True if its main containers run."""
    status = pod.get("status") or {}
    return status.get("phase") == "Running" and not pod["metadata"].get("deletionTimestamp")


def is_ready(pod: Manifest) -> bool:
    """True if it accepts requests."""
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions) and is_running(pod)


def is_disrupted(pod: Manifest) -> bool:
    """True if Kubernetes took it away: evicted, preempted, or its node gone."""
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(c.get("type") == "DisruptionTarget" and c.get("status") == "True" for c in conditions)


def created(pod: Manifest) -> datetime:
    """Return the time at which the API server created it."""
    return parse_timestamp(pod["metadata"]["creationTimestamp"])


def started(pod: Manifest) -> str | None:
    """Return the time at which the kubelet accepted it, as the API writes it."""
    start = (pod.get("status") or {}).get("startTime")
    return str(start) if start else None


def node_index(pod: Manifest) -> int:
    """Return the pod's completion index in its Job; 0 for any other pod."""
    meta = pod["metadata"]
    index = (meta.get("labels") or {}).get(INDEX) or (meta.get("annotations") or {}).get(INDEX) or "0"
    return int(index) if str(index).isdigit() else 0


def finished(pod: Manifest) -> str | None:
    """Return the end of its last container, as the API writes it; None while one runs."""
    ends = [((status.get("state") or {}).get("terminated") or {}).get("finishedAt") for status in statuses(pod)]
    times = [str(end) for end in ends if end]
    return max(times) if times and len(times) == len(ends) else None


def record(pod: Manifest, container: str) -> TerminationRecord | None:
    """Return the record that the trainer left in that container's termination message; None without one."""
    for status in statuses(pod):
        ended = (status.get("state") or {}).get("terminated") or {}
        if status.get("name") == container and ended:
            try:
                return TerminationRecord.from_json(str(ended.get("message") or ""))
            except ValueError:
                return None
    return None


def trouble(pod: Manifest) -> Trouble | None:
    """Return why a pod does not run and will not without a change; None for a pod on its way."""
    name = pod["metadata"]["name"]
    for condition in (pod.get("status") or {}).get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            message = condition.get("message", "")
            amounts = "limits" if _LACKS_WHOLE.search(message) else "requests"  # a GPU is reserved by its limit
            correction = f"ask for less in its resources.{amounts}, or add a node"
            kind = (pod["metadata"].get("labels") or {}).get(LABEL_KIND)
            where = "deployments[].podTemplate" if kind == "OnlineEndpoint" else "spec.podTemplate"
            if "node affinity/selector" in message:
                serving = kind in PLACED_AS_SERVERS
                has_author = kind == "OnlineEndpoint" or not serving
                author = f"{where}.nodeSelector, {where}.affinity or " if has_author else ""
                corrected = f"correct {author}the chart's {'serving' if serving else 'training'}.nodeSelector"
                both = f"{correction}, or {corrected}"
                correction = both if "Insufficient" in message else f"{corrected}, or add a node"
            elif "persistentvolumeclaim" in message.lower():
                correction = (
                    f"create the claim, see why it is unbound (kubectl describe pvc), or correct {where}.volumes"
                )
            reason = str(condition.get("reason") or "Unschedulable")
            return Trouble(reason, f"no node takes pod {name}: {message}; {correction}")
    for status in statuses(pod):
        waiting = (status.get("state") or {}).get("waiting") or {}
        reason = waiting.get("reason", "")
        if reason in TROUBLED_WAITING:
            return Trouble(reason, _waiting_sentence(pod, status, reason, waiting.get("message", "")))
    return None


def _waiting_sentence(pod: Manifest, status: Manifest, reason: str, message: str) -> str:
    name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
    if reason in IMAGE_REASONS:
        remedy = "correct the image's name, name its registry and the keys to pull it, or load it onto the nodes"
        return f"cannot pull image {status.get('image') or '?'} for pod {name}: {message}; {remedy}"
    if (missing := re.search(r'(secret|configmap) "([^"]+)" not found', message)) is not None:
        what = {"secret": "Secret", "configmap": "ConfigMap"}[missing[1]]
        return f"{what} {missing[2]} not found in {namespace}; create it, the pod then starts by itself"
    if reason == "CrashLoopBackOff" and (last := crashing(pod)) is not None:
        return f"pod {name} keeps failing: {last.sentence}"
    return f"pod {name} cannot start: {message or reason}"


def crashing(pod: Manifest) -> Verdict | None:
    """Return why a pod that Kubernetes keeps restarting failed last; None for one that has not failed."""
    if (pod.get("status") or {}).get("reason") == EVICTED:
        return _evicted(pod)
    for status in statuses(pod):
        if status.get("ready"):
            continue
        for state in (status.get("state") or {}, status.get("lastState") or {}):
            ended = state.get("terminated")
            if ended and ended.get("exitCode") != 0:
                return assess(pod, {**status, "state": {"terminated": ended}})
    return None


def terminated(pod: Manifest) -> Manifest | None:
    """Return the status of the first container of a pod that ended with an error; None without one."""
    for status in statuses(pod):
        ended = (status.get("state") or {}).get("terminated")
        if ended and ended.get("exitCode") != 0:
            return status
    return None


def is_last(job: Manifest, failures: Sequence[Manifest]) -> bool:
    """True if Kubernetes makes no more pods for a Job after these failures: by its rules first, then by their count."""
    spec, counts = job["spec"], job.get("status") or {}
    actions = [_action(pod, (spec.get("podFailurePolicy") or {}).get("rules") or []) for pod in failures]
    counted = max(actions.count("Count"), int(counts.get("failed") or 0))
    return "FailJob" in actions or counted > int(spec.get("backoffLimit", BACKOFF_LIMIT))


def _action(pod: Manifest, rules: Iterable[Manifest]) -> str:
    """Return the action on a failed pod, by the first rule of a podFailurePolicy that matches it."""
    return next((str(rule["action"]) for rule in rules if _matches(pod, rule)), "Count")


def _matches(pod: Manifest, rule: Manifest) -> bool:
    if (exit_codes := rule.get("onExitCodes")) is None:
        conditions = (pod.get("status") or {}).get("conditions") or []
        present = {(condition.get("type"), condition.get("status")) for condition in conditions}
        patterns = rule.get("onPodConditions") or []
        return any((pattern["type"], pattern.get("status", "True")) in present for pattern in patterns)
    name, is_in = exit_codes.get("containerName"), exit_codes["operator"] == "In"
    ended = [
        (status.get("state") or {}).get("terminated") or {}
        for status in statuses(pod)
        if name in (None, status["name"])
    ]
    codes = [end["exitCode"] for end in ended if end.get("exitCode")]
    return any((code in exit_codes["values"]) == is_in for code in codes)


def verdict(pod: Manifest) -> Verdict:
    """Return why a pod failed, by its first failed container, or by the kubelet's message on the whole pod."""
    whole = pod.get("status") or {}
    if whole.get("reason") == EVICTED:
        return _evicted(pod)
    status = terminated(pod)
    if status is not None:
        return assess(pod, status)
    reason = str(whole.get("reason") or "PodFailed")
    message = str(whole.get("message") or f"pod {pod['metadata']['name']} failed without saying why")
    return Verdict(reason, pod["metadata"]["name"], None, message, "", "")


def _evicted(pod: Manifest) -> Verdict:
    """Return why the kubelet evicted a pod: its containers do not know why they were killed."""
    name, why = str(pod["metadata"]["name"]), str(pod["status"].get("message") or "").strip().rstrip(".")
    status = terminated(pod)
    tail = assess(pod, status).tail if status else ""
    if _OVER_LIMIT.search(why):
        message = f"pod {name} was evicted, since it wrote more to the node's disk than its limit: {why}"
        return Verdict(EVICTED, name, None, message, tail, f"raise resources.limits.{DISK}, or make it write less")
    message = f"pod {name} was evicted: {why or 'its node ran out of a resource'}"
    return Verdict(EVICTED, name, None, message, tail, "ask for what it needs in resources.requests")


def assess(pod: Manifest, status: Manifest) -> Verdict:
    """Return why one container failed, by the kubelet's reason and by the record that the trainer leaves."""
    ended = status["state"]["terminated"]
    name = str(pod["metadata"]["name"])
    code = ended.get("exitCode")
    last = str(ended.get("message") or "")
    try:
        record = TerminationRecord.from_json(last)
        reason, message, tail, code = record.reason, record.message, record.tail, record.exit_code or code
        words = record.words[:LONGEST]
    except ValueError:  # a foreign image, or killed before it could write a record: the kubelet gives the log's end
        reason, message, tail, words = "", "", last, ""
    kubelets = str(ended.get("reason") or "Error")
    if kubelets == OUT_OF_MEMORY:
        limit = _memory_limit(pod, str(status.get("name")))
        return Verdict(
            OUT_OF_MEMORY,
            name,
            code,
            f"pod {name} used more memory than its limit{f' of {limit}' if limit else ''}",
            tail,
            "raise resources.limits.memory, or make it use less",
        )
    if kubelets in ("StartError", "ContainerCannotRun"):
        if not _LACKS_PROGRAM.search(last):  # trouble of the node, which another attempt may not meet
            message = f"container {status.get('name')} of pod {name} cannot start: {last}"
            return Verdict(kubelets, name, code, message, "", "see the events of the pod")
        message, hint = f"image {status.get('image')} cannot start our entry point: {last}", _OTHER_IMAGE
        if status.get("name") == "server":
            hint = _OTHER_SERVER
        if _sets_path(pod, str(status.get("name"))):
            hint = "remove PATH from env, or keep the folders of the image in it"
        elif 'exec: "python3"' in last:
            message = f"image {status.get('image')} has no python3: {last}"
            hint = "choose an image with Python 3.9 or newer as python3"
        return Verdict(IMAGE_NOT_SUITABLE, name, code, message, "", hint)
    if not reason:
        reason = "CommandFailed"
    message = message or f"pod {name} exited with code {code}"
    if reason == "CommandFailed" and (words := words or last_words(tail.splitlines())):
        message += f": {words}"
    container = str(status.get("name") or "")
    if reason == "CommandFailed" and container != TRAINER:
        reason, hint = "ContainerFailed", f"see {_log_of(pod, container)}"
    else:
        hint = HINTS.get(reason, "").format(secret=_storage_secret(pod), log=_log_of(pod, container))
        if reason in WITH_REMEDY and "; " in message:
            message, _, own = message.rpartition("; ")
            hint = hint or own
        if reason in ("CommandFailed", contract.SAME_FAILURE):
            hint = _with_remedy(hint, message)
    return Verdict(reason, name, code, message, tail, hint)


def _sets_path(pod: Manifest, container: str) -> bool:
    spec = pod.get("spec") or {}
    containers = [*(spec.get("initContainers") or []), *(spec.get("containers") or [])]
    return any(v["name"] == "PATH" for c in containers if c["name"] == container for v in c.get("env") or [])


def command_failed(namespace: str, pod: str, message: str) -> str:
    """Return the remedy for a command that failed in a pod, if only its name and the message are known."""
    hint = HINTS["CommandFailed"].format(log=f"kubectl -n {namespace} logs {pod} -c {TRAINER}")
    return _with_remedy(hint, message)


def _with_remedy(hint: str, message: str) -> str:
    return f"{cure}; {hint}" if (cure := remedy(message)) else hint


def _log_of(pod: Manifest, container: str) -> str:
    """Return the command that shows the log of a container that has ended."""
    meta, logs = pod["metadata"], f"kubectl -n {pod['metadata']['namespace']} logs"
    if (pod.get("spec") or {}).get("restartPolicy", "Always") != "Never":
        return f"{logs} {meta['name']} -c {container} --previous"
    labels = meta.get("labels") or {}
    if container == TRAINER and labels.get(LABEL_KIND) == TRAINING_JOB.kind:
        return f"ultramarine -n {meta['namespace']} logs {labels[LABEL_NAME]}"
    # A pod of a Job is not restarted: another one comes, and this one stays until it is deleted.
    job = labels.get(JOB_NAME)
    if job and meta.get("deletionTimestamp"):
        return f"{logs} -l {JOB_NAME}={job} -c {container} --prefix --tail=-1"
    return f"{logs} {meta['name']} -c {container}"


HINTS = {
    "CommandFailed": "read its last lines in status.failure.tail, or the whole with {log}",
    contract.SAME_FAILURE: "read its log with {log}, correct the cause, and run it again as a new TrainingJob; "
    "to have it tried more often, add a rule with action Count for the exit code to spec.podFailurePolicy",
    "OutputEmpty": "let the command write into $(outputs.NAME), or remove the output",
    "BucketNotFound": "create the bucket or correct the uri",
    "AccessDenied": "check the uri, the keys in Secret {secret} (in the embedded storage they open BUCKET/NAMESPACE/ "
    "and read BUCKET/shared/), and whether spec.env overrides them",
    "CredentialsMissing": "put AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY into Secret {secret}",
    "Unreachable": "check that the object storage is up",
    "ClockWrong": "set the node's clock right, as with chrony",
}
# Reasons whose message ends with a remedy. The hint takes its place, so that a sentence has one remedy.
WITH_REMEDY = {"CommandNotFound", *HINTS} - {"CommandFailed", contract.SAME_FAILURE}


def _storage_secret(pod: Manifest) -> str:
    """Return the Secret from which a pod takes its storage keys."""
    spec = pod.get("spec") or {}
    for container in [*(spec.get("initContainers") or []), *(spec.get("containers") or [])]:
        for source in container.get("envFrom") or []:
            return str((source.get("secretRef") or {}).get("name") or "")
    return "of the storage"


def _memory_limit(pod: Manifest, container: str) -> str:
    whole = pod.get("spec") or {}
    for spec in [*(whole.get("initContainers") or []), *(whole.get("containers") or [])]:
        if spec.get("name") == container:
            return str(((spec.get("resources") or {}).get("limits") or {}).get("memory") or "")
    return ""


def image_digest(pod: Manifest, container: str) -> str:
    """Return the image that a container really runs, as the node resolved it."""
    for status in statuses(pod):
        if status.get("name") == container:
            return str(status.get("imageID") or "")
    return ""
