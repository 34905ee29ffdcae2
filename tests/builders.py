"""Objects as the API server would give them, in one line each; the tests read like the documentation."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from ultramarine_contract import common as contract
from ultramarine_contract.meta import API_VERSION, Manifest, child_labels
from ultramarine_contract.training_records import TerminationRecord
from ultramarine_operator.shared.conditions import find
from ultramarine_operator.shared.plan import Obj, Plan, Platform, Seen

NOW = datetime(2030, 1, 1, 12, 0, tzinfo=UTC)
DIGEST = "sha256:" + "a" * 64
WEIGHTS = b"weights"  # a single object, where a test stores one for an operator
WEIGHTS_DIGEST = f"sha256:{hashlib.sha256(WEIGHTS).hexdigest()}"

PLATFORM = Platform(
    trainer_image="ultramarine/trainer:1",
    server_image="ultramarine/server:1",
    storage_endpoint="http://storage:7070",
    storage_region="",
    storage_bucket="lake",
    storage_secret="ultramarine-storage",
    training_disk="100Gi",
    serving_disk="50Gi",
)


def ours(kind: str, name: str, spec: Manifest, status: Manifest | None = None, **meta: Any) -> Manifest:
    """An object of one of our kinds."""
    return {
        "apiVersion": API_VERSION,
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": "team-a",
            "uid": f"{kind}-{name}-uid",
            "generation": 1,
            "resourceVersion": "10",
            "creationTimestamp": "2030-01-01T11:00:00Z",
            **meta,
        },
        "spec": spec,
        **({"status": status} if status is not None else {}),
    }


def read(manifest: Manifest) -> Obj[Any]:
    """The object with its spec read by its kind's schema."""
    from ultramarine_operator.kinds import KINDS

    kind = next(kind for kind in KINDS if kind.name == manifest["kind"])
    return Obj(manifest, kind.spec.model_validate(manifest["spec"]))


def training(name: str, **spec: object) -> Manifest:
    """A TrainingJob as a person applies it: it registers its output, as it is, as the Model of its own name."""
    whole = {
        "source": {"inline": {"train.py": "print(1)"}},
        "command": ["python", "train.py"],
        "outputs": {"model": {"registerAs": name, "compile": {"to": "none"}}},
        **spec,
    }
    return {"apiVersion": API_VERSION, "kind": "TrainingJob", "metadata": {"name": name}, "spec": whole}


def serving(name: str, model: str, deployment: str = "blue") -> Manifest:
    """An OnlineEndpoint as a person applies it: one deployment of a model, with two pods."""
    spec = {"deployments": [{"name": deployment, "model": model, "replicas": 2}]}
    return {"apiVersion": API_VERSION, "kind": "OnlineEndpoint", "metadata": {"name": name}, "spec": spec}


def training_job(status: Manifest | None = None, **spec: Any) -> Obj[Any]:
    """A TrainingJob called churn."""
    return read(ours("TrainingJob", "churn", {"command": ["python", "train.py"], **spec}, status))


TRIAL: Manifest = {"command": ["python", "train.py", "--lr=$(params.lr)"]}


def searching(name: str, **spec: object) -> Manifest:
    """A Sweep as a person applies it: ten trials, two at a time, for the learning rate with the least loss."""
    whole = {
        "objective": {"metric": "loss"},
        "searchSpace": {"lr": {"logUniform": {"min": 1e-05, "max": 0.1}}},
        "limits": {"maxTrials": 10, "parallelTrials": 2},
        "trialTemplate": {"spec": {"source": {"inline": {"train.py": "print('loss=1')"}}, **TRIAL}},
        **spec,
    }
    return {"apiVersion": API_VERSION, "kind": "Sweep", "metadata": {"name": name}, "spec": whole}


def sweep(status: Manifest | None = None, **spec: Any) -> Obj[Any]:
    """A Sweep called hpo."""
    return read(ours("Sweep", "hpo", {**searching("hpo")["spec"], **spec}, status))


def sweep_job(owner: Obj[Any], which: str, condition: str = "", reason: str = "", **counts: Any) -> Manifest:
    """The Job of a Sweep's `coordinator` or `workers`, running, or ended by that condition."""
    from ultramarine_operator.kinds.sweep.plan import plan

    (spec,) = (
        made["spec"]
        for made in plan(replace(owner, manifest={**owner.manifest, "status": {}}), seen(), NOW).apply
        if made["kind"] == "Job" and made["metadata"]["name"] == f"{owner.name}-{which}"
    )
    ended = {"type": condition, "status": "True", "reason": reason, "lastTransitionTime": "2030-01-01T11:59:00Z"}
    status = {**counts, **({"conditions": [ended]} if condition else {})}
    return child("Job", f"{owner.name}-{which}", owner, spec, status)


def sweep_pod(owner: Obj[Any], which: str, phase: str = "Running", node: int = 0, **status: Any) -> Manifest:
    """A pod of a Sweep's `coordinator` or `workers`."""
    made = pod(owner, f"{owner.name}-{which}-{node}-abcde", phase, node, **status)
    made["metadata"]["ownerReferences"] = [{"uid": f"Job-{owner.name}-{which}-uid", "controller": True}]
    return made


def endpoint(status: Manifest | None = None, **spec: Any) -> Obj[Any]:
    """An OnlineEndpoint called churn, with one deployment, blue, of churn@latest."""
    deployments = [{"name": "blue", "model": "churn@latest"}]
    return read(ours("OnlineEndpoint", "churn", {"deployments": deployments, **spec}, status))


def model(**spec: Any) -> Manifest:
    """The Model churn."""
    return ours("Model", "churn", spec)


def version(number: int, *, ready: bool = True, labels: dict[str, str] | None = None, **spec: Any) -> Manifest:
    """A version of the Model churn."""
    status = {"conditions": [{"type": "Ready", "status": "True" if ready else "False", "reason": "ArtifactFound"}]}
    whole = {
        "model": "churn",
        "version": str(number),
        "uri": f"s3://lake/churn/{number}/",
        "digest": DIGEST,
        "format": {"name": "sklearn"},
        **spec,
    }
    return ours("ModelVersion", f"churn-{number}", whole, status, labels=labels or {})


def child(
    kind: str, name: str, owner: Obj[Any], spec: Manifest | None = None, status: Manifest | None = None
) -> Manifest:
    """A child of `owner`, with our labels and its owner reference."""
    return {
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": owner.namespace,
            "uid": f"{kind}-{name}-uid",
            "generation": 1,
            "resourceVersion": "20",
            "creationTimestamp": "2030-01-01T11:30:00Z",
            "labels": child_labels(owner.manifest["kind"], owner.name),
            "ownerReferences": [{"uid": owner.uid, "controller": True}],
        },
        "spec": spec or {},
        "status": status or {},
    }


def job(owner: Obj[Any], condition: str = "", reason: str = "", **counts: Any) -> Manifest:
    """The Job of a TrainingJob, running, or ended by that condition."""
    from ultramarine_operator.kinds.trainingjob.manifests import training_job as build

    ended = {"type": condition, "status": "True", "reason": reason, "lastTransitionTime": "2030-01-01T11:59:00Z"}
    status = {**counts, **({"conditions": [ended]} if condition else {})}
    return child("Job", owner.name, owner, build(owner, PLATFORM)["spec"], status)


def pod(owner: Obj[Any], name: str = "churn-0-abcde", phase: str = "Running", node: int = 0, **status: Any) -> Manifest:
    """A pod of a TrainingJob's Job."""
    made = child(
        "Pod",
        name,
        owner,
        {"nodeName": "node-1", "restartPolicy": "Never"},
        {"phase": phase, "startTime": "2030-01-01T11:30:05Z", **status},
    )
    made["metadata"]["ownerReferences"] = [{"uid": f"Job-{owner.name}-uid", "controller": True}]
    made["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"] = str(node)
    return made


def ended_container(code: int, reason: str = "Error", message: str = "", name: str = "trainer") -> Manifest:
    """The containerStatuses of a pod whose one container has ended."""
    return {
        "containerStatuses": [
            {
                "name": name,
                "image": "ultramarine/trainer:1",
                "imageID": "sha256:feed",
                "ready": False,
                "state": {"terminated": {"exitCode": code, "reason": reason, "message": message}},
            }
        ]
    }


def succeeded_pod(owner: Obj[Any], **outputs: contract.OutputRecord) -> Manifest:
    """A pod that has succeeded and told its outputs."""
    record = TerminationRecord(outputs=outputs, metrics={"accuracy": 0.97})
    return pod(owner, phase="Succeeded", **ended_container(0, "Completed", record.to_json()))


def model_output(digest: str = DIGEST) -> contract.OutputRecord:
    """An uploaded scikit-learn model."""
    return contract.OutputRecord("s3://lake/out/model/aaaa/", digest, 1000, "sklearn")


def seen(*children: Manifest, related: tuple[Manifest, ...] = (), **answers: Any) -> Seen:
    """What a plan is given."""
    return Seen(PLATFORM, tuple(children), related, answers.get("answers", {}))


def condition(plan: Plan, type: str) -> Manifest:
    """A condition of the planned status, or an empty one."""
    return find(plan.status, type) or {}


def kinds_of(manifests: tuple[Manifest, ...]) -> list[str]:
    """Kind and name of each, for short assertions."""
    return [f"{m['kind']}/{m['metadata']['name']}" for m in manifests]
