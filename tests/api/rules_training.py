"""More rules of a TrainingJob, like those of rules.py: its nodes, its failures, its checkpoints, and its pods."""

from __future__ import annotations

from typing import Any

from bare import merged
from rules import DOTS, OBJECT, QUANTITY, TJ, URI, Rule, of_spec
from ultramarine_contract.meta import Manifest

ALONE: Manifest = {"nodes": 1, "framework": None, "processesPerNode": None, "elastic": None}
WORDS = "must be a label value: letters, digits, '-', '_' and '.', with a letter or digit at both ends"
YEAR = 31536000


def wanted(reason: str, accepted: Manifest, refused: Manifest, *words: str) -> Rule:
    """A rule about the spec of a TrainingJob."""
    return of_spec(TJ, reason, accepted, refused, *words)


def from_all(**fields: Any) -> Manifest:
    """Environment variables from all keys of one object."""
    return {"envFrom": [fields]}


def on_failure(action: str | None = "Count", **exits: Any) -> Manifest:
    """A policy with one rule, in which None takes a field away."""
    rule = merged({"onExitCodes": {"operator": "In", "values": [1]}}, {"action": action, "onExitCodes": exits})
    return {"podFailurePolicy": {"rules": [rule]}}


def toleration(**fields: Any) -> Manifest:
    """One toleration."""
    return {"podTemplate": {"tolerations": [fields]}}


def selector(name: str, value: str = "a") -> Manifest:
    """A node selector of one label."""
    return {"podTemplate": {"nodeSelector": {name: value}}}


EXITS, TAINTS = "spec.podFailurePolicy.rules[0]", "spec.podTemplate.tolerations[0]"

RULES = [
    # Nodes
    wanted(
        "fewer nodes are fewer than all",
        {"nodes": 2, "elastic": {"minNodes": 1}},
        {"nodes": 2, "elastic": {"minNodes": 2}},
        "spec: ",
        "elastic.minNodes must be less than nodes; leave elastic out if all nodes are needed",
    ),
    *(
        wanted(
            f"a node has one process {how}",
            {"framework": name, "processesPerNode": None},
            {**ALONE, "framework": name, "processesPerNode": 2},
            "spec: ",
            "processesPerNode needs framework torch or mpi; leave it out",
        )
        for how, name in (("with jax", "jax"), ("that is numbered", "none"))
    ),
    wanted(
        "one process needs no framework",
        ALONE,
        {**ALONE, "processesPerNode": 2},
        "spec: ",
        "processesPerNode needs framework torch or mpi; leave it out",
    ),
    wanted(
        "nodes find each other",
        {"framework": "none", "processesPerNode": None},
        {"framework": None, "processesPerNode": None},
        "spec: ",
        "several nodes need a framework to connect them; set one, or framework: none to only number the nodes",
    ),
    # Memory
    wanted(
        "the most memory is a quantity",
        {"onOutOfMemory": {"maxMemory": "1.5Gi"}},
        {"onOutOfMemory": {"maxMemory": "all"}},
        "spec.onOutOfMemory.maxMemory: ",
        QUANTITY,
    ),
    *(
        wanted(
            f"there is a limit to raise, not {resources}",
            {"onOutOfMemory": None, "resources": resources},
            {"resources": resources},
            "spec: ",
            "onOutOfMemory needs a first limit; set resources.limits.memory",
        )
        for resources in (None, {"limits": None}, {"limits": {"memory": None, "cpu": 1}})
    ),
    # Checkpoints
    wanted(
        "a checkpoint is in the storage",
        {"checkpoint": {"resumeFrom": "s3://lake/a/"}},
        {"checkpoint": {"resumeFrom": "/mnt/a/"}},
        "spec.checkpoint.resumeFrom: ",
        URI,
    ),
    wanted(
        "a checkpoint's path is plain",
        {"checkpoint": {"resumeFrom": "s3://lake/a.b/"}},
        {"checkpoint": {"resumeFrom": "s3://lake/../"}},
        "spec.checkpoint.resumeFrom: ",
        DOTS,
    ),
    wanted(
        "a checkpoint is a folder",
        {"checkpoint": {"resumeFrom": "s3://lake/a/"}},
        {"checkpoint": {"resumeFrom": "s3://lake/a"}},
        "spec.checkpoint: ",
        "resumeFrom must be a checkpoint's folder that ends in a slash, such as status.lastCheckpoint.uri",
    ),
    wanted(
        "what never resumes resumes from nowhere",
        {"checkpoint": {"resume": None}},
        {"checkpoint": {"resume": "Never"}},
        "spec.checkpoint: ",
        "resumeFrom needs resume: Auto; remove one of the two",
    ),
    # Failures
    wanted(
        "exit codes differ",
        on_failure(values=[2, 1]),
        on_failure(values=[1, 1]),
        f"{EXITS}.onExitCodes.values[1]: Duplicate value",
    ),
    wanted(
        "0 is no failure",
        on_failure(operator="NotIn", values=[0, 1]),
        on_failure(operator="In", values=[0, 1]),
        f"{EXITS}.onExitCodes: ",
        "values must not have 0, which means success; remove it",
    ),
    # Environment
    *(
        wanted(
            f"a {name} names an object",
            from_all(**{name: {"name": "0a"}}),
            from_all(**{name: {"name": bad}}),
            f"spec.envFrom[0].{name}.name: ",
            OBJECT,
        )
        for name, bad in (("secretRef", "A"), ("configMapRef", "a..b"))
    ),
    *(
        wanted(
            f"variables come from {reason}",
            from_all(secretRef={"name": "a"}),
            from_all(**fields),
            "spec.envFrom[0]: ",
            "give one of secretRef and configMapRef",
        )
        for reason, fields in (
            ("somewhere", {"prefix": "A"}),
            ("one object", {"secretRef": {"name": "a"}, "configMapRef": {"name": "a"}}),
        )
    ),
    wanted(
        "a prefix begins a variable",
        from_all(prefix="_A1", secretRef={"name": "a"}),
        from_all(prefix="a-", secretRef={"name": "a"}),
        "spec.envFrom[0].prefix: ",
        "must be letters, digits and '_', and must not begin with a digit",
    ),
    # Pods
    *(
        wanted(
            f"a label is not called {name[:20]}",
            selector("example.com/A_b-1.c"),
            selector(name),
            "spec.podTemplate.nodeSelector: ",
            "each key must be a label key, such as topology.kubernetes.io/zone",
        )
        for name in ("-a", "a/b/c", "Example.com/a", "/a", "a" * 64, f"{'a' * 252}/a")
    ),
    wanted(
        "a node's label has a value that labels have",
        selector("a", "A_b-1.c"),
        selector("a", "a b"),
        "spec.podTemplate.nodeSelector",
        WORDS,
    ),
    *(
        wanted(
            f"{name} has what a pod's has",
            {"podTemplate": {"affinity": {name: {"a": [{"b": None}], "c": "d"}}}},
            {"podTemplate": {"affinity": {name: {"a": [], "b": [], "c": []}}}},
            f"spec.podTemplate.affinity.{name}: Too many: 3: must have at most 2 items",
        )
        for name in ("nodeAffinity", "podAffinity", "podAntiAffinity")
    ),
    wanted(
        "a taint's key is one",
        toleration(key="example.com/gpu", operator="Exists"),
        toleration(key="gpu=", operator="Exists"),
        f"{TAINTS}.key: ",
        "must be the key of a taint, such as nvidia.com/gpu",
    ),
    wanted(
        "a taint's value is one",
        toleration(key="a", value="A_b-1.c"),
        toleration(key="a", value="a b"),
        f"{TAINTS}.value: ",
        WORDS,
    ),
    *(
        wanted(
            f"every taint exists, so that {fields} is too little",
            toleration(operator="Exists", effect="NoSchedule"),
            toleration(**fields),
            f"{TAINTS}: ",
            "a toleration without a key needs operator Exists, which tolerates every taint; set it, or give a key",
        )
        for fields in ({}, {"operator": "Equal", "value": "a"}, {"key": ""})
    ),
    wanted(
        "what exists has any value",
        toleration(key="a", operator="Exists", value=""),
        toleration(key="a", operator="Exists", value="b"),
        f"{TAINTS}: ",
        "operator Exists takes no value; leave value out, or set operator to Equal",
    ),
    *(
        wanted(
            f"the time is of an eviction, not of {fields}",
            toleration(key="a", effect="NoExecute", tolerationSeconds=60),
            toleration(key="a", tolerationSeconds=60, **fields),
            f"{TAINTS}: ",
            "tolerationSeconds needs effect NoExecute; set it, or leave tolerationSeconds out",
        )
        for fields in ({}, {"effect": "NoSchedule"})
    ),
    *(
        wanted(
            f"a {name} is an object's, not {bad}",
            {"podTemplate": {name: "low-priority"}},
            {"podTemplate": {name: bad}},
            f"spec.podTemplate.{name}: ",
            OBJECT,
        )
        for name in ("priorityClassName", "serviceAccountName")
        for bad in ("High", "a/b", "a.")
    ),
    wanted(
        "training is not as critical as the cluster itself",
        {"podTemplate": {"priorityClassName": "not-system-critical"}},
        {"podTemplate": {"priorityClassName": "system-node-critical"}},
        "spec.podTemplate.priorityClassName: ",
        "the prefix system- is reserved by the cluster; name another class",
    ),
    wanted(
        "training takes no place from the platform",
        {"podTemplate": {"priorityClassName": "ultramarine"}},
        {"podTemplate": {"priorityClassName": "ultramarine-platform-team-a"}},
        "spec.podTemplate.priorityClassName: ",
        "the prefix ultramarine-platform is reserved by the platform; name another class",
    ),
    wanted(
        "no variable of the author is named like the platform's",
        from_all(secretRef={"name": "a"}, prefix="ULTRA_"),
        from_all(secretRef={"name": "a"}, prefix="ULTRAMARINE_"),
        "spec.envFrom[0].prefix: ",
        "the prefix ULTRAMARINE_ is reserved; choose another prefix",
    ),
    wanted(
        "an output is not named as a folder of the platform's",
        {"outputs": {"log": {}}},
        {"outputs": {"logs": {}}},
        "attempts, checkpoints, logs and metrics are reserved folders; choose another name",
    ),
    # Wrong types
    wanted("nodes are counted", {"nodes": 4}, {"nodes": "4"}, "spec.nodes in body must be of type integer"),
    wanted(
        "a factor is a number",
        {"onOutOfMemory": {"factor": 2}},
        {"onOutOfMemory": {"factor": "2"}},
        "spec.onOutOfMemory.factor in body must be of type number",
    ),
    wanted(
        "checkpoints are kept or not",
        {"checkpoint": {"enabled": False}},
        {"checkpoint": {"enabled": "yes"}},
        "spec.checkpoint.enabled in body must be of type boolean",
    ),
    wanted(
        "a pod is not patched",
        {},
        {"podTemplate": {"hostNetwork": True}},
        'unknown field "spec.podTemplate.hostNetwork"',
    ),
]
