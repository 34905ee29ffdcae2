"""Objects as the API server would give them, in one line each; those of one kind are in its own testing.py."""

# ruff: noqa: F401  what the kinds have is imported from here

from __future__ import annotations

from typing import Any

from ultramarine_contract import common as contract
from ultramarine_contract.meta import Manifest
from ultramarine_contract.training_records import TerminationRecord
from ultramarine_operator.kinds import KINDS
from ultramarine_operator.kinds.model.testing.samples import stored_model as model
from ultramarine_operator.kinds.model.testing.samples import stored_version as version
from ultramarine_operator.kinds.onlineendpoint.testing.samples import endpoint, serving
from ultramarine_operator.kinds.sweep.testing.samples import TRIAL, searching, sweep, sweep_job
from ultramarine_operator.kinds.trainingjob.testing.samples import job, training, training_job
from ultramarine_operator.shared.conditions import find
from ultramarine_operator.shared.plan import Obj, Plan
from ultramarine_operator.shared.testing import DIGEST, NOW, PLATFORM, WEIGHTS, WEIGHTS_DIGEST, child, seen
from ultramarine_operator.shared.testing import stored as ours


def read(manifest: Manifest) -> Obj[Any]:
    """The object with its spec read by its kind's schema."""
    kind = next(kind for kind in KINDS if kind.name == manifest["kind"])
    return Obj(manifest, kind.spec.model_validate(manifest["spec"]))


def sweep_pod(owner: Obj[Any], which: str, phase: str = "Running", node: int = 0, **status: Any) -> Manifest:
    """A pod of a Sweep's `coordinator` or `workers`."""
    made = pod(owner, f"{owner.name}-{which}-{node}-abcde", phase, node, **status)
    made["metadata"]["ownerReferences"] = [{"uid": f"Job-{owner.name}-{which}-uid", "controller": True}]
    return made


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


def condition(plan: Plan, type: str) -> Manifest:
    """A condition of the planned status, or an empty one."""
    return find(plan.status, type) or {}


def kinds_of(manifests: tuple[Manifest, ...]) -> list[str]:
    """Kind and name of each, for short assertions."""
    return [f"{m['kind']}/{m['metadata']['name']}" for m in manifests]
