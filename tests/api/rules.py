"""The rules of the CRDs as a table: what keeps each, what breaks it, and what the API server then has to say."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from ultramarine_contract.meta import Manifest

TJ, MODEL, VERSION, ENDPOINT, SWEEP = "TrainingJob", "Model", "ModelVersion", "OnlineEndpoint", "Sweep"
NAME = "must be lower-case letters, digits and '-', with a letter or digit at both ends"
URI = "must be s3://BUCKET/KEY with a BUCKET of 3 to 63 characters, and no spaces, backslashes or percent signs"
DOTS = "must not have an empty name, '.' or '..' between slashes"
DIGESTS = "must be sha256: and 64 lower-case hexadecimal digits"
NUMBER = "must be a number from 1, in quotes, such as '7'"
QUANTITY = "must be a quantity such as 2, 500m or 4Gi"
OBJECT = "must be an object's name: lower-case letters, digits, '-' and '.'"


@dataclass(frozen=True)
class Rule:
    """A rule: patches of the whole object that keep it and break it, and what the refusal says."""

    kind: str
    reason: str
    accepted: Manifest
    refused: Manifest
    words: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        return f"{self.kind}: {self.reason}"


def of_spec(kind: str, reason: str, accepted: Manifest, refused: Manifest, *words: str) -> Rule:
    """A rule about the spec."""
    return Rule(kind, reason, {"spec": accepted}, {"spec": refused}, words)


def called(kind: str, reason: str, accepted: str, refused: str, *words: str) -> Rule:
    """A rule about the name."""
    return Rule(kind, reason, {"metadata": {"name": accepted}}, {"metadata": {"name": refused}}, words)


ALONE: Manifest = {"mirrorTraffic": None, "rollout": None}  # nothing that names a deployment beside those of traffic


def endpoint_of(*models: str, **deployment: Any) -> Manifest:
    """The spec of an endpoint with a deployment for each model, a, b, c and so on."""
    made = [{"name": name, "model": model, **deployment} for name, model in zip("abc", models, strict=False)]
    return {"deployments": made, "traffic": {"blue": None, "green": None, "a": 100}, **ALONE}


LONG = "a" * 40

RULES = [
    # What has to be there
    *(Rule(k, "a spec is there", {}, {"spec": None}, ("spec: Required value",)) for k in (TJ, VERSION, ENDPOINT)),
    # Unknown fields and wrong types
]

# What cannot be changed later: every such field, with another value for it.
FIXED: dict[str, Manifest] = {
    TJ: {
        "image": "other:1",
        "source": {"inline": {"train.py": "print(2)"}},
        "command": ["python", "other.py"],
        "args": ["--slow"],
        "parameters": {"rate": "0.2"},
        "env": [{"name": "MODE", "value": "slow"}],
        "envFrom": [{"secretRef": {"name": "other"}}],
        "framework": "mpi",
        "nodes": 3,
        "processesPerNode": 3,
        "elastic": {"minNodes": 2},
        "resources": {"requests": {"cpu": 2}},
        "onOutOfMemory": {"factor": 3},
        "checkpoint": {"enabled": False},
        "podFailurePolicy": {"rules": [{"action": "Count", "onExitCodes": {"operator": "In", "values": [2]}}]},
        "podTemplate": {"priorityClassName": "low"},
        "inputs": {"data": {"uri": "s3://lake/other/"}},
        "outputs": {"more": {}},
    },
    VERSION: {
        "model": "other",
        "version": "8",
        "uri": "s3://lake/other/",
        "digest": "sha256:" + "b" * 64,
        "format": {"name": "pickle"},
        "signature": {"inputs": [{"name": "z", "datatype": "FP64", "shape": [-1]}]},
        "compile": {"onFailure": "Fail"},
        "lineage": {"trainingJob": "other"},
    },
    SWEEP: {
        "objective": {"metric": "accuracy"},
        "algorithm": {"seed": 8},
        "searchSpace": {"booster": {"choice": ["gbtree", "gblinear"]}},
        "earlyTermination": {"minSteps": 2},
        "budget": {"cpuHours": 11},
        "canaryTrial": False,
        "execution": "PodPerTrial",
        "activeDeadlineSeconds": 120,
        "registerBest": "other",
    },
}
# Those of an object within the spec.
FIXED_WITHIN: dict[tuple[str, str], Manifest] = {
    (SWEEP, "limits"): {"maxTrials": 300, "maxFailedTrials": 6, "trialTimeoutSeconds": 7200},
}
# Those that cannot be taken away; of execution the default takes its place.
REQUIRED = {"command", "model", "version", "uri", "digest", "format", "searchSpace", "execution"}
CHANGES = [
    pytest.param(kind, {name: value}, name, id=f"{kind}.{name} {word}")
    for kind, fields in FIXED.items()
    for name, other in fields.items()
    for word, value in (("changed", other), ("removed", None))
    if value is not None or name not in REQUIRED
]
CHANGES += [
    pytest.param(kind, {within: {name: value}}, name, id=f"{kind}.{within}.{name} {word}")
    for (kind, within), fields in FIXED_WITHIN.items()
    for name, other in fields.items()
    for word, value in (("changed", other), ("removed", None))
]
# What may be changed, whatever it was.
FREE = [
    (TJ, {"suspend": True, "backoffLimit": 5, "activeDeadlineSeconds": 120, "ttlSecondsAfterFinished": None}),
    (TJ, {"pendingDeadlineSeconds": 120}),
    (MODEL, {"description": "Other.", "aliases": {"champion": "8", "challenger": "9"}}),
    (MODEL, {"card": {"owner": "other"}, "retention": None, "deletionPolicy": "Delete"}),
    (VERSION, {"allowCodeExecution": True}),
    (ENDPOINT, {"authMode": "none", "keysSecretRef": None, "traffic": {"blue": 0, "green": 100}}),
    (ENDPOINT, {"deployments": [{"name": "red", "model": "churn@9"}], "traffic": None, **ALONE}),
    (ENDPOINT, {"rollout": {"candidate": "green", "steps": [100], "gates": None}}),
    (SWEEP, {"suspend": True, "ttlSecondsAfterFinished": None, "limits": {"parallelTrials": 2}}),
    (SWEEP, {"trialTemplate": {"spec": {"pendingDeadlineSeconds": 120}}}),
]
