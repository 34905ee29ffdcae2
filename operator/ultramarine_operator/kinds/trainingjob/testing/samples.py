"""TrainingJobs for the tests: a whole one, those of the golden files, and what makes a drawn one valid."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from ultramarine.resources.trainingjob import TrainingJobSpec
from ultramarine_contract.meta import Manifest
from ultramarine_contract.references import REFERENCE

from ....shared.plan import Obj, Plan, Platform
from ....shared.testing import DIGEST, NOW, PLATFORM, Sample, applied, child, fit, seen, stored
from .. import manifests
from ..plan import plan


def training(name: str, **spec: object) -> Manifest:
    """A TrainingJob as a user applies it; it registers its output, uncompiled, as the Model of its own name."""
    whole = {
        "source": {"inline": {"train.py": "print(1)"}},
        "command": ["python", "train.py"],
        "outputs": {"model": {"registerAs": name, "compile": {"to": "none"}}},
        **spec,
    }
    return applied("TrainingJob", name, whole)


def training_job(status: Manifest | None = None, **spec: Any) -> Obj[TrainingJobSpec]:
    """A TrainingJob called churn."""
    manifest = stored("TrainingJob", "churn", {"command": ["python", "train.py"], **spec}, status)
    return Obj(manifest, TrainingJobSpec.model_validate(manifest["spec"]))


def job(owner: Obj[Any], condition: str = "", reason: str = "", **counts: Any) -> Manifest:
    """The Job of a TrainingJob, running, or ended by that condition."""
    ended = {"type": condition, "status": "True", "reason": reason, "lastTransitionTime": "2030-01-01T11:59:00Z"}
    status = {**counts, **({"conditions": [ended]} if condition else {})}
    return child("Job", owner.name, owner, manifests.training_job(owner, PLATFORM)["spec"], status)


WHOLE: Manifest = {
    "metadata": {"name": "churn"},
    "spec": {
        "image": "ultramarine/trainer:1",
        "source": {"inline": {"train.py": "print(1)"}},
        "command": ["python", "train.py"],
        "args": ["--fast"],
        "parameters": {"rate": "0.1"},
        "env": [
            {"name": "MODE", "value": "fast"},
            {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}},
            {"name": "LEVEL", "valueFrom": {"configMapKeyRef": {"name": "logs", "key": "level"}}},
        ],
        "envFrom": [{"prefix": "HUB_", "secretRef": {"name": "hub"}}, {"configMapRef": {"name": "logs"}}],
        "framework": "torch",
        "nodes": 2,
        "processesPerNode": 2,
        "elastic": {"minNodes": 1},
        "resources": {"requests": {"cpu": 1, "memory": "512Mi"}, "limits": {"memory": "1.5Gi"}},
        "environment": {"requirements": ["lightgbm==4.6"]},
        "onOutOfMemory": {"factor": 1.5, "maxMemory": "4Gi"},
        "checkpoint": {
            "enabled": True,
            "resume": "Auto",
            "resumeFrom": "s3://lake/other/",
            "gracePeriodSeconds": 60,
        },
        "podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [2, 3]}}]},
        "podTemplate": {
            "nodeSelector": {"topology.kubernetes.io/zone": "a"},
            "tolerations": [
                {"key": "gpu", "operator": "Equal", "value": "a", "effect": "NoExecute", "tolerationSeconds": 60}
            ],
            "affinity": {"nodeAffinity": {}, "podAffinity": {}, "podAntiAffinity": {}},
            "priorityClassName": "high",
            "serviceAccountName": "trainer",
            "sharedMemory": "1Gi",
            "volumes": [{"claimName": "datasets", "mountPath": "/data", "readOnly": True}],
        },
        "inputs": {"data": {"uri": "s3://lake/churn/"}},
        "outputs": {
            "model": {
                "registerAs": "churn",
                "format": "auto",
                "fromMlflow": True,
                "allowCodeExecution": True,
                "compile": {"to": "onnx"},
            },
            "report": {},
        },
        "suspend": False,
        "cancel": False,
        "backoffLimit": 1,
        "activeDeadlineSeconds": 60,
        "pendingDeadlineSeconds": 60,
        "ttlSecondsAfterFinished": 3600,
    },
}


# ---- Golden files


def minimal_job(platform: Platform) -> Plan:
    """A command, and nothing else."""
    return plan(training_job(), seen(platform=platform), NOW)


def full_job(platform: Platform) -> Plan:
    """Every field of a TrainingJob."""
    job = training_job(
        image="team-a/trainer:2",
        source={"inline": {"train.py": "import sys\nprint(sys.argv)\n", "params.json": "{}"}},
        command=["python", "train.py", "--rate=$(params.rate)"],
        args=["$(inputs.data)", "$(outputs.model)"],
        parameters={"rate": "0.1"},
        env=[
            {"name": "MODE", "value": "fast"},
            {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}},
            {"name": "LEVEL", "valueFrom": {"configMapKeyRef": {"name": "logs", "key": "level"}}},
        ],
        resources={"requests": {"cpu": 1, "memory": "512Mi"}, "limits": {"memory": "1Gi", "nvidia.com/gpu": 1}},
        inputs={"data": {"uri": "s3://lake/churn/"}},
        outputs={"model": {"registerAs": "churn", "format": "sklearn"}, "report": {}},
        podTemplate={"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}},
        suspend=True,
        backoffLimit=1,
        activeDeadlineSeconds=600,
        ttlSecondsAfterFinished=3600,
    )
    return plan(job, seen(platform=platform), NOW)


PINNED: Manifest = {
    "environment": "env-1a2b",
    "environmentUri": "s3://lake/team-a/environments/env-1a2b/7f/environment.tar.zst",
    "environmentDigest": DIGEST,
    "environmentBytes": 1000,
}


def job_with_environment(platform: Platform) -> Plan:
    """A command with packages of its own, shared memory, and a PersistentVolumeClaim."""
    volumes = [{"claimName": "datasets", "mountPath": "/data", "readOnly": True}]
    job = training_job(
        {"provenance": PINNED},
        environment={"requirements": ["lightgbm==4.6"]},
        podTemplate={"sharedMemory": "1Gi", "volumes": volumes},
    )
    return plan(job, seen(platform=platform), NOW)


SAMPLES: tuple[Sample, ...] = (minimal_job, full_job, job_with_environment)


# ---- Drawn manifests


def complete(_: Manifest, spec: Manifest, searched: Collection[str] = ()) -> None:
    """Make the fields of a drawn spec agree with each other; `searched` are parameters of a sweep."""
    if "parameters" in spec:
        spec["parameters"] = {
            "p" + re.sub(r"[^A-Za-z0-9_.-]", "_", name): value for name, value in spec["parameters"].items()
        }
    names = {"params": {*spec.get("parameters", {}), *searched}}
    names |= {kind: set(spec.get(kind, {})) for kind in ("inputs", "outputs")}
    for words in (spec["command"], spec.get("args", [])):
        words[:] = [
            text if all(name in names[kind] for kind, name in REFERENCE.findall(text)) else text.replace("$", "")
            for text in words
        ]
    spec["command"][0] = spec["command"][0] or "true"
    if len(spec["command"]) == 1:
        spec["command"][0] = spec["command"][0].replace(" ", "_")
    for entry in spec.get("inputs", {}).values():
        _complete_input(entry)
    for output in spec.get("outputs", {}).values():
        if "dataset" in output:
            for name in ("registerAs", "fromMlflow"):
                output.pop(name, None)
        if "registerAs" not in output:
            for name in ("format", "compile", "allowCodeExecution"):
                output.pop(name, None)
        if output.get("fromMlflow") and output.get("format") not in ("auto", "mlflow"):
            output.pop("format", None)
    if "source" in spec:
        spec["source"] = complete_source(spec["source"])
    _complete_nodes(spec)
    _complete_failures(spec)
    fit(spec.get("resources", {}))
    complete_pods(spec)


def _complete_input(entry: Manifest) -> None:
    if "dataset" in entry:
        entry.pop("uri", None)
        entry.pop("digest", None)
    else:
        entry.setdefault("uri", "s3://lake/churn.csv")
    if {"dataset", "digest"} & entry.keys():
        entry.pop("mode", None)


def complete_pods(spec: Manifest) -> None:
    """Make the fields of a spec agree that concern its pods."""
    for variable in spec.get("env", []):
        if REFERENCE.search(str(variable.get("value"))):
            variable["value"] = "a"
        if "value" in variable or not variable.get("valueFrom"):
            variable.pop("valueFrom", None)
        elif len(variable["valueFrom"]) > 1:
            del variable["valueFrom"]["secretKeyRef"]
    for origin in spec.get("envFrom", []):
        if "secretRef" in origin:
            origin.pop("configMapRef", None)
        else:
            origin.setdefault("configMapRef", {"name": "a"})
    if "environment" in spec:
        spec["environment"] = {"requirements": ["lightgbm==4.6"]}
    for toleration in spec.get("podTemplate", {}).get("tolerations", []):
        _complete_toleration(toleration)


def complete_source(source: Manifest) -> Manifest:
    """Return a drawn source with one origin."""
    if git := source.get("git"):
        return {"git": {**git, "secretRef": {"name": "churn-git"}} if "@" in git.get("url", "") else git}
    if name := source.get("configMap"):
        return {"configMap": name}
    uri = source.get("uri", "").rstrip("/")
    if uri.count("/") > 2:  # a shorter one is a bucket
        return {"uri": uri, **({"digest": source["digest"]} if "digest" in source else {})}
    inline = source.get("inline") or {"train.py": "print(1)"}
    return {"inline": {re.sub(r"^\.(\.|$)", "_", name): text for name, text in inline.items()}}


def _complete_nodes(spec: Manifest) -> None:
    nodes = spec.get("nodes", 1)
    if nodes > 1:
        spec.setdefault("framework", "none")
        if elastic := spec.get("elastic"):
            elastic["minNodes"] = 1 + (elastic["minNodes"] - 1) % (nodes - 1)
    else:
        spec.pop("elastic", None)
    if spec.get("framework") not in ("torch", "mpi"):
        spec.pop("processesPerNode", None)


def _complete_failures(spec: Manifest) -> None:
    if "onOutOfMemory" in spec:
        spec.setdefault("resources", {}).setdefault("limits", {}).setdefault("memory", "1Gi")
    checkpoint = spec.get("checkpoint", {})
    if checkpoint.get("resume") == "Never":
        checkpoint.pop("resumeFrom", None)
    if "resumeFrom" in checkpoint:
        checkpoint["resumeFrom"] = checkpoint["resumeFrom"].rstrip("/") + "/"
    for rule in spec.get("podFailurePolicy", {}).get("rules", []):
        exits = rule["onExitCodes"]
        if exits["operator"] == "In":
            exits["values"] = [code for code in exits["values"] if code] or [1]


def _complete_toleration(toleration: Manifest) -> None:
    if not toleration.get("key"):
        toleration["operator"] = "Exists"
    if toleration.get("operator") == "Exists":
        toleration.pop("value", None)
    if toleration.get("effect") != "NoExecute":
        toleration.pop("tolerationSeconds", None)
