"""Models and their versions for the tests: whole ones, and those of the golden files."""

from __future__ import annotations

from typing import Any

from ultramarine.resources.model import ModelSpec, ModelVersionSpec
from ultramarine_contract.meta import Manifest

from ....shared.plan import Obj, Plan, Platform
from ....shared.questions import ArtifactFacts, CheckArtifact
from ....shared.testing import DIGEST, NOW, WEIGHTS_DIGEST, Sample, applied, seen, stored
from ..plan import plan_model, plan_version


def model(**aliases: str) -> Manifest:
    """The Model churn as a user applies it."""
    return applied("Model", "churn", {"aliases": aliases})


def version(number: int) -> Manifest:
    """A version of churn as a user applies it; its artifact is one object."""
    spec = {
        "model": "churn",
        "version": str(number),
        "uri": f"s3://lake/NAMESPACE/{number}.onnx",
        "digest": WEIGHTS_DIGEST,
    }
    return applied("ModelVersion", f"churn-{number}", {**spec, "format": {"name": "onnx"}})


def native(number: int, **spec: object) -> Manifest:
    """A version that is compiled while it is served."""
    made = version(number)
    changes = {"uri": f"s3://lake/NAMESPACE/{number}.skops", "format": {"name": "sklearn"}, **spec}
    return {**made, "spec": {**made["spec"], **changes}}


def compiled(number: int) -> Manifest:
    """A version that is compiled before it is served."""
    return native(number, compile={"to": "onnx"})


def stored_model(**spec: Any) -> Manifest:
    """The Model churn as the API server returns it."""
    return stored("Model", "churn", spec)


def stored_version(number: int, *, ready: bool = True, labels: dict[str, str] | None = None, **spec: Any) -> Manifest:
    """A version of churn as the API server returns it."""
    status = {"conditions": [{"type": "Ready", "status": "True" if ready else "False", "reason": "ArtifactFound"}]}
    whole = {
        "model": "churn",
        "version": str(number),
        "uri": f"s3://lake/churn/{number}/",
        "digest": DIGEST,
        "format": {"name": "sklearn"},
        **spec,
    }
    return stored("ModelVersion", f"churn-{number}", whole, status, labels=labels or {})


WHOLE_MODEL: Manifest = {
    "metadata": {"name": "churn"},
    "spec": {
        "description": "Who leaves.",
        "card": {"owner": "growth", "license": "internal", "intendedUse": "Offers.", "limitations": "Not abroad."},
        "retention": {"versions": 20},
        "deletionPolicy": "Retain",
        "trust": {"allowCodeExecution": True},
        "aliases": {"champion": "7"},
    },
}
WHOLE_VERSION: Manifest = {
    "metadata": {"name": "churn-7"},
    "spec": {
        "model": "churn",
        "version": "7",
        "uri": "s3://lake/churn/7/",
        "digest": DIGEST,
        "format": {"name": "sklearn", "untrustedTypes": ["team.Model"]},
        "signature": {
            "inputs": [{"name": "x", "datatype": "FP64", "shape": [-1, 30]}],
            "outputs": [{"name": "y", "datatype": "INT64", "shape": [-1]}],
        },
        "compile": {"to": "onnx", "parity": {"rtol": 1e-05, "labelAgreement": 1.0}, "onFailure": "ServeNative"},
        "allowCodeExecution": False,
        "lineage": {
            "trainingJob": "churn",
            "gitCommit": "3fa9" * 10,
            "requestedBy": "ada",
            "sweep": "churn",
            "trial": 3,
            "metrics": {"accuracy": 0.97},
        },
    },
}


def compiled_version(platform: Platform) -> Plan:
    """A version that is compiled before it is served."""
    spec = {**stored_version(1)["spec"], "compile": {"to": "onnx", "parity": {"rtol": 0.001}}}
    answers = {CheckArtifact(spec["uri"]): ArtifactFacts(DIGEST, 1000)}
    obj = Obj(stored("ModelVersion", "churn-1", spec), ModelVersionSpec.model_validate(spec))
    return plan_version(obj, seen(platform=platform, answers=answers), NOW)


def deleted_version(platform: Platform) -> Plan:
    """A version is gone, and its artifact is to go."""
    uri = "s3://lake/team-a/trainingjobs/churn/0a-1b/model/0123456789abcdef/"
    left = {"artifacts": [{"version": "1", "uri": uri, "deleting": True}]}
    manifest = {**stored_model(deletionPolicy="Delete"), "status": left}
    return plan_model(Obj(manifest, ModelSpec.model_validate(manifest["spec"])), seen(platform=platform), NOW)


DELETED: tuple[Sample, ...] = (deleted_version,)
