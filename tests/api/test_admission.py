"""Every rule of the CRDs, with a manifest that is accepted and one that is refused, before a real API server."""

from __future__ import annotations

import copy
import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bare import Api, documents, schema_of, whole
from broken import too_many
from rules import CHANGES, ENDPOINT, FIXED, FIXED_WITHIN, FREE, MODEL, SWEEP, TJ, Rule, endpoint_of
from ultramarine_contract.meta import Manifest

# Of rules.py and of every rules_*.py beside it.
TABLES = sorted(path.stem for path in Path(__file__).parent.glob("rules*.py"))
RULES: list[Rule] = [rule for table in TABLES for rule in importlib.import_module(table).RULES]


@pytest.fixture(scope="module")
def stored(namespace) -> Api:
    """A namespace in which a whole object of each kind is stored."""
    api = namespace()
    api.apply(*(whole(kind) for kind in documents()))
    return api


@pytest.fixture(scope="module")
def empty(namespace) -> Api:
    """A namespace in which nothing is ever stored."""
    return namespace()


@pytest.mark.parametrize("kind", documents())
def test_what_keeps_a_rule_is_accepted(empty, kind):
    """Objects that just keep the rules, one for each, are all taken."""
    empty.apply(*(whole(kind, rule.accepted) for rule in RULES if rule.kind == kind), dry=True)


@pytest.mark.attack("author/storage-endpoint")
@pytest.mark.attack(
    "author/own-variables",
    asset="the task given to a pod",
    threat="a variable named like one of ours",
    control="names that start with `ULTRAMARINE_` are refused at admission",
)
@pytest.mark.attack("author/priority")
@pytest.mark.attack("training/git-credentials")
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_what_breaks_a_rule_is_refused_in_words(empty, rule):
    """An object that breaks the rule is refused, with the field and the remedy."""
    said = empty.verdict(whole(rule.kind, rule.refused))

    assert said, "it was accepted"
    assert all(words in said for words in rule.words), said
    assert "should match" not in said, "people cannot read a regular expression"


def test_no_nodes_are_not_several(empty):
    """Who asks for no node is told the least number, and nothing of what several nodes need."""
    said = empty.refusal(
        whole(TJ, {"spec": {"nodes": 0, "framework": None, "processesPerNode": None, "elastic": None}})
    )

    assert "spec.nodes in body should be greater than or equal to 1" in said
    assert "several nodes" not in said


@pytest.mark.attack(
    "author/exchange",
    asset="a registered version",
    threat="its content is exchanged later",
    control="spec and digest are immutable; the digest is checked at every load",
)
@pytest.mark.parametrize(("kind", "patch", "name"), CHANGES)
def test_what_is_fixed_stays(stored, kind, patch, name):
    """What decides a result cannot be changed or taken away later; the refusal names the field and the way out."""
    said = stored.verdict(whole(kind, {"spec": patch}))

    assert f"{name} cannot be changed; make a new object with another name" in said


@pytest.mark.parametrize(("kind", "patch"), FREE)
def test_what_is_free_can_be_changed(stored, kind, patch):
    """What steers an object can be changed at any time."""
    assert stored.verdict(whole(kind, {"spec": patch})) == ""


def test_the_defaults_are_written_into_the_object(api):
    """The least that a person can write is accepted, and `kubectl get -o yaml` shows what was assumed."""
    api.apply(
        {"apiVersion": "ultramarine.dev/v1alpha1", "kind": TJ, "metadata": {"name": "a"}, "spec": {"command": ["a"]}},
        {"apiVersion": "ultramarine.dev/v1alpha1", "kind": MODEL, "metadata": {"name": "a"}, "spec": {}},
        whole(ENDPOINT, {"metadata": {"name": "a"}, "spec": {"authMode": None, **endpoint_of("m@1")}}),
    )

    assert api.get("tj", "a")["spec"] == {"command": ["a"], "nodes": 1, "suspend": False, "backoffLimit": 3}
    assert api.get("mdl", "a")["spec"] == {"deletionPolicy": "Retain"}
    assert api.get("oe", "a")["spec"]["authMode"] == "key"


def test_an_endpoint_that_is_applied_again_is_unchanged(api):
    """kubectl replaces lists as a whole, so nothing is written into the deployments that their author left out."""
    deployments = [
        {"name": "blue", "model": "m@1", "requestSettings": {}, "batching": {"maxBatchSize": 8}},
        {"name": "green", "model": "m@2", "autoscale": {"maxReplicas": 2, "metric": "concurrency", "target": 1}},
        {"name": "many", "pool": {"selector": {"matchLabels": {"tier": "small"}}}},
    ]
    rollout = {"candidate": "green", "steps": [10, 100], "gates": {"errorRateIncrease": 0.01}}
    spec = {"traffic": {"blue": 100}, "deployments": deployments, "rollout": rollout}
    manifest = {"apiVersion": "ultramarine.dev/v1alpha1", "kind": ENDPOINT, "metadata": {"name": "b"}, "spec": spec}
    text = json.dumps(manifest)

    assert api.run("apply", "-f", "-", input=text).strip().endswith("created")
    for _ in range(2):
        assert api.run("apply", "-f", "-", input=text).strip().endswith("unchanged")
    assert api.get("oe", "b")["spec"]["deployments"] == deployments


def nodes(schema: Manifest, path: str) -> Iterator[tuple[str, Manifest]]:
    """Every node of a schema with its path: [] for the items of a list, .* for the values of a map."""
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    if "items" in schema:
        yield from nodes(schema["items"], f"{path}[]")
    if isinstance(schema.get("additionalProperties"), dict):
        yield from nodes(schema["additionalProperties"], f"{path}.*")


CEL = "x-kubernetes-validations"


def roots() -> Iterator[tuple[str, Manifest]]:
    """The schema of each kind, in which what a Sweep has borrowed of a TrainingJob is left out: it is tested there."""
    for kind, crd in documents().items():
        root = copy.deepcopy(schema_of(crd))
        if kind == SWEEP:
            own, borrowed = of_trials()
            root["properties"]["spec"]["properties"]["trialTemplate"]["properties"]["spec"] = {CEL: own}
            assert borrowed
        yield kind, root


def of_trials() -> tuple[list[Manifest], Manifest]:
    """The spec of a Sweep's trials: the rules that it has of its own, and all else."""
    sweep, job = (schema_of(documents()[kind])["properties"]["spec"] for kind in (SWEEP, TJ))
    borrowed = dict(sweep["properties"]["trialTemplate"]["properties"]["spec"])
    lent = job[CEL]
    own = [rule for rule in borrowed[CEL] if rule not in lent]
    return own, {**borrowed, CEL: [rule for rule in borrowed[CEL] if rule in lent], "description": job["description"]}


def test_what_a_trial_runs_is_the_spec_of_a_job():
    """The spec of a Sweep's trials is a TrainingJob's, field by field and rule by rule, with some rules more.

    Only that a model needs registerAs is not asked of trials.
    """
    own, borrowed = of_trials()
    job = copy.deepcopy(schema_of(documents()[TJ])["properties"]["spec"])
    of_models = job["properties"]["outputs"]["additionalProperties"].pop(CEL)

    assert borrowed == job
    assert len(own) == 3
    assert [rule["rule"].partition(" || ")[2] for rule in of_models] == ["has(self.registerAs)"] * 3


def spec_nodes() -> Iterator[tuple[str, str, Manifest]]:
    """Every node that a person writes, with its kind and path."""
    for kind, root in roots():
        yield from ((kind, path, node) for path, node in nodes(root["properties"]["spec"], "spec"))


def as_expression(path: str) -> str:
    """What matches that path in the API server's words."""
    return re.escape(path).replace(r"\[\]", r"\[\d+\]").replace(r"\.\*", r"\.[^. ]+")


def refusals(kind: str) -> str:
    """All that the tables above expect the API server to say of a kind."""
    names = [*FIXED.get(kind, {}), *(name for (k, _), fields in FIXED_WITHIN.items() if k == kind for name in fields)]
    names += ["objectives"] if kind == SWEEP else []  # what one object cannot have
    fixed = [f"{name} cannot be changed; make a new object with another name" for name in names]
    return "\n".join([*fixed, *(words for rule in RULES if rule.kind == kind for words in rule.words)])


def test_every_rule_has_a_test():
    """A CEL rule whose message no refused manifest expects is a rule without a test."""
    rules = [
        (kind, rule["message"])
        for kind, root in roots()
        for path, node in nodes(root, "")
        if not path.startswith(".status")
        for rule in node.get(CEL, [])
    ]
    untested = [(kind, message) for kind, message in rules if message not in refusals(kind)]

    assert len(rules) > 40
    assert untested == []


def test_no_pattern_is_left_to_speak_for_itself():
    """The API server answers a pattern with the expression; our schemas have rules with a sentence instead."""
    assert [(kind, path) for kind, path, node in spec_nodes() if "pattern" in node] == []


def oversized(node: Manifest, value: Any) -> Iterator[tuple[str, Any]]:
    """Where and how a value can be made one larger than the schema allows: a path, and the value made so."""
    untyped = "type" not in node and isinstance(value, str)
    if node.get("type") == "string" or "x-kubernetes-int-or-string" in node or untyped:
        if "maxLength" in node:
            yield "", "a" * (node["maxLength"] + 1)
    elif node.get("type") == "array":
        if "maxItems" in node:
            yield "", too_many(node, value[0])
        for index in range(len(value)):
            for path, large in oversized(node["items"], value[index]):
                yield f"[{index}]{path}", [*value[:index], large, *value[index + 1 :]]
    elif isinstance(value, dict):
        if "maxProperties" in node and "properties" not in node:
            some = next(iter(value.values()), None)
            yield "", {f"a{number}": some for number in range(node["maxProperties"] + 1)}
        for name, child in value.items():
            below = node.get("properties", {}).get(name) or node["additionalProperties"]
            for path, large in oversized(below, child):
                yield f".{name}{path}", {**value, name: large}


@pytest.mark.attack(
    "author/huge-objects",
    asset="API server, etcd",
    threat="huge objects",
    control="every text, list and map has a limit",
)
@pytest.mark.parametrize("kind", documents())
def test_nothing_can_be_too_large(empty, kind):
    """Every text, list and map has a limit, and the refusal names it."""
    schema = schema_of(documents()[kind])["properties"]["spec"]
    sizes = list(oversized(schema, whole(kind)["spec"]))
    said = "\n".join(empty.refusal(*({**whole(kind), "spec": spec} for _, spec in sizes)).split(", "))

    for path, _ in sizes:
        what = rf"spec{re.escape(path)}: Too (long|many): .*(more than|at most) \d+ (bytes|items)"
        assert re.search(what, said), f"spec{path} is not in\n{said[:4000]}"
