"""Valid manifests that are broken in one place, with the field that the refusal has to name."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from strategies import (
    GONE,
    OPEN,
    SHORT,
    Path,
    Values,
    json_values,
    key_pattern_of,
    pattern_of,
    replaced,
    schema,
    texts,
    valid,
)
from ultramarine.shared.meta import Manifest


@dataclass(frozen=True)
class Broken:
    """A manifest that must be refused: how it was broken, and the field that the refusal has to name."""

    how: str
    field: str
    manifest: Manifest


Place = tuple[str, Path, Path, Values]  # how, what is replaced, what the refusal names, by what


def spelled(path: Path) -> str:
    """A path with dots only; the API server spells the same one with and without brackets."""
    return ".".join(map(str, path))


def plain(message: str) -> str:
    """A message of the API server in which paths have dots only."""
    return message.replace("[", ".").replace("]", "")


_OTHER: dict[str, Values] = {
    "string": st.sampled_from([0, 1.5, True, [], {}, ["a"], {"a": "b"}]),
    "integer": st.sampled_from(["1", "", 1.5, True, [], {}, 1e300]),
    "number": st.sampled_from(["1", "", True, [], {}]),
    "boolean": st.sampled_from(["true", "", 0, 1, [], {}]),
    "array": st.sampled_from(["a", "", 0, True, {}, {"a": []}]),
    "object": st.sampled_from(["a", "", 0, True, [], ["a"], [{}]]),
}


def _nested(depth: int) -> Any:
    return functools.reduce(lambda inner, _: [inner], range(depth), [])


def places(node: Manifest, value: Any, path: Path) -> Iterator[Place]:
    """Every way to break a value that its schema admits."""
    type = node.get("type", "quantity")
    if type == "quantity":
        yield "wrong type", path, path, st.sampled_from([1.5, True, [], {}])
        yield (
            "against the pattern",
            path,
            path,
            st.sampled_from(["", "-1", "1 Gi", "1e3", "NaN", "0x1", "1Gi\n", "\u0661"]),
        )
        yield "out of range", path, path, st.integers(-(2**62), -1)
        return
    yield "wrong type", path, path, _OTHER[type]
    yield (
        "deep nesting",
        path,
        path,
        st.integers(2, 100).map(_nested if type != "array" else lambda n: {"a": _nested(n)}),
    )
    if "enum" in node:
        known = set(node["enum"])
        yield (
            "unknown word",
            path,
            path,
            (texts(SHORT) | st.sampled_from([w.swapcase() for w in known])).filter(lambda text: text not in known),
        )
    elif type == "string":
        yield "too long", path, path, st.characters(codec="utf-8").map(lambda c: c * (node["maxLength"] + 1))
        if node.get("minLength"):
            yield "empty", path, path, st.just("")
        if pattern := pattern_of(node):
            turned = st.sampled_from([f"{value}\n", f" {value}", f"{value}\x00", f"{value}\U0001f4a5", f"é{value}", ""])
            wrong = (texts(SHORT) | turned).filter(lambda text: not pattern.search(text))
            yield "against the pattern", path, path, wrong.filter(lambda text: len(text) <= node["maxLength"])
    elif type == "integer":
        if "minimum" in node:
            yield "out of range", path, path, st.integers(-(2**63), node["minimum"] - 1)
        if "maximum" in node:
            yield "out of range", path, path, st.integers(node["maximum"] + 1, 2**63 - 1) | st.just(10**30)
    elif type == "number":
        if "minimum" in node:
            yield (
                "out of range",
                path,
                path,
                st.floats(max_value=node["minimum"], exclude_max=True, allow_infinity=False),
            )
        if "maximum" in node:
            yield (
                "out of range",
                path,
                path,
                st.floats(min_value=node["maximum"], exclude_min=True, allow_infinity=False),
            )
    elif type == "array":
        yield from _places_of_list(node, value, path)
    elif type == "object":
        yield from _places_of_object(node, value, path)


def too_many(node: Manifest, item: Any) -> list[Any]:
    """One more than a list may have; they differ where they must, else that would be refused first."""
    if node.get("x-kubernetes-list-type") == "set":
        return list(range(node["maxItems"] + 1))
    keys = node.get("x-kubernetes-list-map-keys", [])
    return [item | {key: f"a{n}" for key in keys} if keys else item for n in range(node["maxItems"] + 1)]


def _places_of_list(node: Manifest, value: list[Any], path: Path) -> Iterator[Place]:
    if node.get("minItems"):
        yield "too few", path, path, st.just([])
    if value:
        yield "too many", path, path, st.just(too_many(node, value[0]))
        yield "null", (*path, 0), (*path, 0), st.none()
        if node.get("x-kubernetes-list-type") in ("map", "set"):
            yield "twice", path, (*path, len(value)), st.just([*value, value[0]])
    for number, item in enumerate(value):
        yield from places(node["items"], item, (*path, number))


def _places_of_object(node: Manifest, value: Manifest, path: Path) -> Iterator[Place]:
    if node.get(OPEN):
        yield "too many", path, path, st.just({f"a{n}": n for n in range(node["maxProperties"] + 1)})
        return
    if "additionalProperties" in node:
        values = node["additionalProperties"]
        if node.get("minProperties"):
            yield "too few", path, path, st.just({})
        if value:
            some = next(iter(value.values()))
            yield "too many", path, path, st.just({f"a{n}": some for n in range(node["maxProperties"] + 1)})
            if rule := key_pattern_of(node):
                bad = texts(SHORT).filter(lambda key: not rule[0].search(key))
                yield "odd key", path, path, bad.map(lambda key: value | {key: some})
        for key, child in value.items():
            yield from places(values, child, (*path, key))
        return
    known = node.get("properties", {})
    for name in node.get("required", []):
        yield "missing", (*path, name), (*path, name), st.just(GONE)
        yield "null", (*path, name), (*path, name), st.none()
    yield "unknown field", (*path, "nosuch"), (*path, "nosuch"), json_values()
    for name, child in value.items():
        yield from places(known[name], child, (*path, name))


# Combinations that are forbidden: each spoils a valid spec in place and says which field has to be named.


def _two_sources(spec: Manifest) -> str:
    source = {"secretKeyRef": {"name": "a", "key": "b"}}
    spec["env"] = [{"name": "A", "value": "", "valueFrom": source}]
    return "spec.env.0"


def _platforms_variable(spec: Manifest) -> str:
    spec["env"] = [{"name": "ULTRAMARINE_TASK"}]
    return "spec.env.0"


def _format_of_no_model(spec: Manifest) -> str:
    spec["outputs"] = {"a": {"format": "onnx"}}
    return "spec.outputs.a"


def _variables_from_nowhere(spec: Manifest) -> str:
    spec["envFrom"] = [{"prefix": "A"}]
    return "spec.envFrom.0"


def _nodes_that_are_lost(spec: Manifest) -> str:
    spec |= {"nodes": 2}
    spec.pop("framework", None)
    return "framework"


def _as_few_as_all(spec: Manifest) -> str:
    spec |= {"nodes": 2, "framework": "none", "elastic": {"minNodes": 2}}
    return "elastic.minNodes"


def _processes_of_nobody(spec: Manifest) -> str:
    spec |= {"framework": "jax", "processesPerNode": 2}
    return "processesPerNode"


def _no_memory_to_raise(spec: Manifest) -> str:
    spec |= {"onOutOfMemory": {"maxMemory": "1Gi"}, "resources": {"requests": {"memory": "1Gi"}}}
    return "onOutOfMemory"


def _resumed_never(spec: Manifest) -> str:
    spec["checkpoint"] = {"resume": "Never", "resumeFrom": "s3://lake/a/"}
    return "spec.checkpoint"


def _success_that_fails(spec: Manifest) -> str:
    spec["podFailurePolicy"] = {"rules": [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [0]}}]}
    return "spec.podFailurePolicy.rules.0.onExitCodes"


def _taint_with_any_value(spec: Manifest) -> str:
    spec["podTemplate"] = {"tolerations": [{"key": "a", "operator": "Exists", "value": "a"}]}
    return "spec.podTemplate.tolerations.0"


def _time_without_eviction(spec: Manifest) -> str:
    spec["podTemplate"] = {"tolerations": [{"operator": "Exists", "tolerationSeconds": 1}]}
    return "spec.podTemplate.tolerations.0"


def _other_number(spec: Manifest) -> str:
    spec["version"] = "2" if spec["version"] == "1" else "1"
    return "metadata.name"


def _traffic_of_one_percent_too_few(spec: Manifest) -> str:
    spec["traffic"] = {spec["deployments"][0]["name"]: 99}
    return "spec.traffic"


def _copies_for_who_answers(spec: Manifest) -> str:
    name = spec["deployments"][0]["name"]
    spec |= {"traffic": {name: 100}, "mirrorTraffic": {name: 1}}
    return "mirrorTraffic"


def _rollout_of_who_answers(spec: Manifest) -> str:
    name = spec["deployments"][0]["name"]
    spec |= {"traffic": {name: 100}, "rollout": {"candidate": name, "steps": [100]}}
    return "rollout.candidate"


def _traffic_to_nobody(spec: Manifest) -> str:
    spec["traffic"] = {"": 100}
    return "traffic"


def _keys_for_nobody(spec: Manifest) -> str:
    spec |= {"authMode": "none", "keysSecretRef": {"name": "a"}}
    return "keysSecretRef"


def _tokens_of_nobody(spec: Manifest) -> str:
    spec["authMode"] = "token"
    spec.pop("token", None)
    spec.pop("keysSecretRef", None)
    return "token"


def _two_key_sets(spec: Manifest) -> str:
    sets = {"jwks": "{}", "jwksUri": "https://id.example.com/keys"}
    spec |= {"authMode": "token", "token": {"issuer": "a", "audiences": ["a"], **sets}}
    spec.pop("keysSecretRef", None)
    return "spec.token"


def _captures_in_an_object(spec: Manifest) -> str:
    spec["dataCollector"] = {"samplingRate": 1, "uri": "s3://lake/kept"}
    return "spec.dataCollector"


_SMALL: Manifest = {"selector": {"matchLabels": {"a": "b"}}}


def _model_beside_a_pool(spec: Manifest) -> str:
    spec["deployments"][0] |= {"model": "a@1", "pool": _SMALL}
    return "spec.deployments.0"


def _neither_model_nor_pool(spec: Manifest) -> str:
    spec["deployments"][0].pop("model", None)
    spec["deployments"][0].pop("pool", None)
    return "spec.deployments.0"


def _pool_that_is_rolled_out(spec: Manifest) -> str:
    spec["deployments"] = [{"name": "a", "model": "a@1"}, {"name": "b", "pool": _SMALL}]
    spec |= {"traffic": {"a": 100}, "rollout": {"candidate": "b", "steps": [100]}}
    spec.pop("mirrorTraffic", None)
    spec.pop("dataCollector", None)
    return "rollout.candidate"


def _captures_of_a_pool(spec: Manifest) -> str:
    spec["deployments"][0] = {"name": spec["deployments"][0]["name"], "pool": _SMALL}
    spec.pop("rollout", None)
    spec["dataCollector"] = {"samplingRate": 1, "uri": "s3://lake/kept/"}
    return "dataCollector"


def _agreement_with_a_pool(spec: Manifest) -> str:
    spec["deployments"] = [{"name": "a", "pool": _SMALL}, {"name": "b", "model": "a@1"}]
    gates = {"agreement": 0.9}
    spec |= {"traffic": {"a": 100}, "rollout": {"candidate": "b", "steps": [10, 100], "gates": gates}}
    spec.pop("mirrorTraffic", None)
    spec.pop("dataCollector", None)
    return "rollout.gates.agreement"


CLASHES: dict[str, list[Callable[[Manifest], str]]] = {
    "TrainingJob": [
        _two_sources,
        _platforms_variable,
        _format_of_no_model,
        _variables_from_nowhere,
        _nodes_that_are_lost,
        _as_few_as_all,
        _processes_of_nobody,
        _no_memory_to_raise,
        _resumed_never,
        _success_that_fails,
        _taint_with_any_value,
        _time_without_eviction,
    ],
    "ModelVersion": [_other_number],
    "OnlineEndpoint": [
        _traffic_of_one_percent_too_few,
        _traffic_to_nobody,
        _copies_for_who_answers,
        _rollout_of_who_answers,
        _keys_for_nobody,
        _tokens_of_nobody,
        _two_key_sets,
        _captures_in_an_object,
        _model_beside_a_pool,
        _neither_model_nor_pool,
        _pool_that_is_rolled_out,
        _agreement_with_a_pool,
        _captures_of_a_pool,
    ],
}
NO_NAMES = ["", "A", "a.", "-a", "a_b", "a/b", "é", "a\n", " a", "a" * 254, "a..b", "\x00", "%2e", ".."]


@st.composite
def broken(draw: st.DrawFn, kind: str) -> Broken:
    """A manifest of a kind with one fault."""
    manifest = draw(valid(kind))
    found = [*places(schema(kind, "spec"), manifest["spec"], ("spec",))]
    found.append(("odd name", ("metadata", "name"), ("metadata", "name"), st.sampled_from(NO_NAMES)))
    if "default" not in schema(kind, "spec"):
        found.append(("missing", ("spec",), ("spec",), st.just(GONE)))
    ways = sorted({how for how, *_ in found} | ({"forbidden together"} if kind in CLASHES else set()))
    how = draw(st.sampled_from(ways))
    if how == "forbidden together":
        manifest = copy.deepcopy(manifest)
        return Broken(how, draw(st.sampled_from(CLASHES[kind]))(manifest["spec"]), manifest)
    _, path, named, values = draw(st.sampled_from([place for place in found if place[0] == how]))
    return Broken(how, spelled(named), replaced(manifest, path, draw(values)))
