"""Nonsense in places where the API server admits it: marks, statuses and last words; of our objects, and of others'."""

from __future__ import annotations

import json
from dataclasses import dataclass

from bare import DIGEST
from hypothesis import strategies as st
from materials import MATERIALS
from strategies import GONE, NAMES, SHORT, Values, json_values, rarely, replaced, statuses, texts
from ultramarine_contract.meta import (
    ANNOTATION_APPLIED,
    FIELD_MANAGER,
    LABEL_KIND,
    LABEL_MANAGED_BY,
    LABEL_NAME,
    Manifest,
)

NEIGHBOURS = {kind: material.neighbour for kind, material in MATERIALS.items()}
# Objects and pods of one set, with NAME in place of the set's name; what a pod's template is from.
ROLES = [(kind, neighbour.manifest("NAME", {})["metadata"]["name"]) for kind, neighbour in NEIGHBOURS.items()]
CHILDREN = [child for neighbour in NEIGHBOURS.values() for child in neighbour.children]
PODS = {name: owner for neighbour in NEIGHBOURS.values() for name, owner in neighbour.pods}


def _named(kind: str) -> list[str]:
    """Names of the children of that kind."""
    return [name for child, name in CHILDREN if child == kind]


RECORD = {
    "outputs": {"model": {"uri": "s3://lake/a/", "digest": DIGEST, "bytes": 1, "format": "sklearn"}},
    "metrics": {"accuracy": 0.5},
    "reason": "CommandFailed",
    "message": "exit 1",
    "tail": "last line",
}


@dataclass(frozen=True)
class Poison:
    """One drop: an object, and what is merged into it or into its status; or an object to be made."""

    kind: str
    name: str
    patch: Manifest
    sub: str = ""

    def of(self, name: str) -> Poison:
        """The drop for one set of objects."""
        return Poison(
            self.kind,
            self.name.replace("NAME", name),
            json.loads(json.dumps(self.patch).replace("NAME", name)),
            self.sub,
        )


def _marks() -> Values:
    word = st.from_regex(r"([A-Za-z0-9][-_.]?){0,3}[A-Za-z0-9]", fullmatch=True)
    word |= (
        st.sampled_from(
            ["NAME", "NAME-1", "NAME-blue", "blue", FIELD_MANAGER, *NAMES, "Job", "Pod", "10000000000000000000"]
        )
        | st.none()
    )
    read = [label for material in MATERIALS.values() for label in material.labels]
    keys = st.sampled_from([LABEL_MANAGED_BY, LABEL_KIND, LABEL_NAME, *read, "a"])
    read = [annotation for material in MATERIALS.values() for annotation in material.annotations]
    notes = st.sampled_from([ANNOTATION_APPLIED, *read, "a"])
    labels, annotations = st.dictionaries(keys, word), st.dictionaries(notes, texts(2000) | st.none())
    return st.fixed_dictionaries({}, optional={"labels": labels, "annotations": annotations})


def _times() -> Values:
    return st.sampled_from(
        [None, "0001-01-01T00:00:01Z", "1969-12-31T23:59:59+14:00", "2030-01-01T00:00:00.9Z", "9999-12-31T23:59:59Z"]
    )


def last_words() -> Values:
    """Yield termination messages: records with one wrong part, and texts that are not records."""
    paths = st.sampled_from(
        [(a,) for a in RECORD]
        + [("outputs", "model"), ("metrics", "accuracy"), ("metrics", "a" * 300), ("outputs", "other")]
        + [("outputs", "model", field) for field in RECORD["outputs"]["model"]]  # type: ignore[index]
    )
    many = st.integers(1, 200).map(lambda n: {**RECORD, "metrics": {f"m{i}": i for i in range(n)}})
    odd = st.builds(
        lambda path, value: replaced(RECORD, path, value),
        paths,
        json_values() | st.just(GONE) | st.just(10**400) | st.just(float("nan")) | st.just(float("inf")),
    )
    nested = st.integers(1, 2000).map(lambda depth: '{"outputs":' + "[" * depth + "]" * depth + "}")
    return (odd | many | json_values()).map(json.dumps) | rarely(nested, texts(4096))


def _containers() -> Values:
    ended = st.fixed_dictionaries(
        {"exitCode": st.integers(-(2**31), 2**31 - 1) | st.sampled_from([0, 1, 137, 203])},
        optional={
            "reason": st.sampled_from(["", "OOMKilled", "Error", "StartError"]) | texts(SHORT),
            "message": last_words(),
            "signal": st.integers(-5, 500),
            "startedAt": _times(),
            "finishedAt": _times(),
        },
    )
    waiting = st.fixed_dictionaries(
        {},
        optional={
            "reason": st.sampled_from(["ErrImagePull", "CrashLoopBackOff", "CreateContainerConfigError"])
            | texts(SHORT),
            "message": texts(2000) | st.just('secret "a" not found'),
        },
    )
    running = st.fixed_dictionaries({}, optional={"startedAt": _times()})
    state = st.one_of(
        st.none(),
        *(
            st.fixed_dictionaries({word: values})
            for word, values in (("terminated", ended), ("waiting", waiting), ("running", running))
        ),
    )
    return st.fixed_dictionaries(
        {
            "name": st.sampled_from(["trainer", "server", "fetch", "other", ""]),
            "image": texts(SHORT),
            "imageID": texts(600),
            "ready": st.booleans(),
            "restartCount": st.integers(0, 2**31 - 1),
        },
        optional={"state": state, "lastState": state},
    )


def _conditions(*types: str) -> Values:
    one = st.fixed_dictionaries(
        {"type": st.sampled_from([*types, "Odd"]), "status": st.sampled_from(["True", "False", "Unknown"])},
        optional={
            "reason": texts(SHORT),
            "message": texts(2000),
            "lastTransitionTime": _times(),
            "lastProbeTime": _times(),
        },
    )
    return st.none() | st.lists(one, max_size=3, unique_by=lambda condition: condition["type"])


def _pod_statuses() -> Values:
    containers = st.none() | st.lists(_containers(), max_size=2)
    return st.fixed_dictionaries(
        {"phase": st.sampled_from(["Pending", "Running", "Succeeded", "Failed", "Unknown", "", None])},
        optional={
            "containerStatuses": containers,
            "initContainerStatuses": containers,
            "conditions": _conditions("Ready", "PodScheduled", "DisruptionTarget"),
            "startTime": _times(),
            "reason": texts(SHORT),
            "message": texts(2000),
        },
    )


def _job_statuses() -> Values:
    count = st.integers(0, 2**31 - 1) | st.none()
    return st.fixed_dictionaries(
        {},
        optional={
            "active": count,
            "failed": count,
            "succeeded": count,
            "ready": count,
            "startTime": _times(),
            "completionTime": _times(),
            "conditions": _conditions("Complete", "Failed", "Suspended", "FailureTarget"),
        },
    )


def _deployment_statuses() -> Values:
    count = st.integers(0, 2**31 - 1) | st.none()
    fields = ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas", "unavailableReplicas")
    return st.fixed_dictionaries(
        {},
        optional={
            **dict.fromkeys(fields, count),
            "observedGeneration": st.integers(0, 2**62),
            "conditions": _conditions("Available", "Progressing"),
        },
    )


def _owners() -> Values:
    owner = st.fixed_dictionaries(
        {
            "apiVersion": st.sampled_from(["ultramarine.dev/v1alpha1", "v1", "a"]),
            "kind": st.sampled_from([*NAMES, "Job", "Pod", "Odd"]),
            "name": st.sampled_from(["NAME", "NAME-1", "other"]),
            "uid": st.sampled_from(["0", "NAME", "\U0001f4a5"]),
        },
        optional={"controller": st.booleans()},
    )
    return st.lists(owner, max_size=2)


_TEMPLATE = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "main", "image": "a"}]}}
STRANGERS: dict[str, tuple[str, Manifest]] = {
    "ConfigMap": ("v1", {"data": {"a": "b"}}),
    "Pod": ("v1", {"spec": _TEMPLATE["spec"]}),
    "Service": ("v1", {"spec": {"ports": [{"port": 80}], "clusterIP": "None"}}),
    "Job": ("batch/v1", {"spec": {"template": {"spec": {**_TEMPLATE["spec"], "restartPolicy": "Never"}}}}),
    "Deployment": ("apps/v1", {"spec": {"selector": {"matchLabels": {"a": "b"}}, "template": _TEMPLATE}}),
    "PodDisruptionBudget": ("policy/v1", {"spec": {"maxUnavailable": 1}}),
    "HorizontalPodAutoscaler": (
        "autoscaling/v2",
        {"spec": {"maxReplicas": 2, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "a"}}},
    ),
}


def _stranger(kind: str, name: str, marks: Manifest, owners: list[Manifest]) -> Poison:
    version, rest = STRANGERS[kind]
    whole = {word: {key: value for key, value in each.items() if value is not None} for word, each in marks.items()}
    whole["labels"] = {LABEL_MANAGED_BY: FIELD_MANAGER, LABEL_KIND: "TrainingJob", LABEL_NAME: "NAME"} | whole.get(
        "labels", {}
    )
    meta = {"name": f"NAME-{name}", **whole, "ownerReferences": owners}
    return Poison(kind, "", {"apiVersion": version, "kind": kind, "metadata": meta, **rest})


def _drops() -> Values:
    """One drop."""
    marks = _marks()
    named = st.sampled_from([*ROLES, *CHILDREN, *(("Pod", name) for name in PODS)])
    wrap = {"status": _pod_statuses()}
    return st.one_of(
        *(
            st.builds(
                lambda kind, name, status: Poison(kind, name, {"status": status}, "status"),
                st.just(kind),
                st.just(name),
                statuses(kind),
            )
            for kind, name in ROLES
        ),
        st.builds(lambda about, marks: Poison(*about, {"metadata": marks}), named, marks),
        st.builds(
            lambda name, status: Poison("Pod", name, status, "status"),
            st.sampled_from([*PODS]),
            st.fixed_dictionaries(wrap),
        ),
        st.builds(
            lambda name, status: Poison("Job", name, {"status": status}, "status"),
            st.sampled_from(_named("Job")),
            _job_statuses(),
        ),
        st.builds(
            lambda name, status: Poison("Deployment", name, {"status": status}, "status"),
            st.sampled_from(_named("Deployment")),
            _deployment_statuses(),
        ),
        st.builds(
            _stranger,
            st.sampled_from(sorted(STRANGERS)),
            st.sampled_from(["keys", "stray", "green", "1"]),
            marks,
            _owners(),
        ),
    )


def poisons() -> Values:
    """Drops for one set of objects, in the order in which they are laid."""
    return st.lists(_drops(), min_size=1, max_size=4)


def ends() -> Values:
    """Yield ends of a Job's only pod: exit codes and termination messages."""
    return st.tuples(st.sampled_from([0, 1, 203]), last_words())
