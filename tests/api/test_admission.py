"""Every rule of the CRDs, with a manifest that is accepted and one that is refused, before a real API server."""

from __future__ import annotations

import copy
import functools
import json
import re
from collections.abc import Iterator

import pytest
from bare import Api, documents, merged, schema_of, whole
from limits import ITEM, VALUE, Path, changes, expression, limits, placed
from materials import MATERIALS
from ultramarine_contract.meta import Manifest
from ultramarine_operator.shared.testing import applied

SWEEP, TJ = "Sweep", "TrainingJob"
CEL = "x-kubernetes-validations"
RULES = [(kind, rule) for kind, material in MATERIALS.items() for rule in material.rules]
CHANGES = [
    pytest.param(kind, change, id=f"{kind}.{change}")
    for kind, crd in documents().items()
    for change in changes(schema_of(crd)["properties"]["spec"], whole(kind)["spec"], ("spec",))
]


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
    """Objects that just keep the rules, one for each, are all accepted."""
    empty.apply(*(whole(kind, rule.ok) for rule in MATERIALS[kind].rules), dry=True)


@pytest.mark.attack("author/storage-endpoint")
@pytest.mark.attack(
    "author/own-variables",
    asset="the task given to a pod",
    threat="a variable named like one of ours",
    control="names that start with `ULTRAMARINE_` are refused at admission",
)
@pytest.mark.attack("author/priority")
@pytest.mark.attack("training/git-credentials")
@pytest.mark.parametrize(("kind", "rule"), RULES, ids=str)
def test_what_breaks_a_rule_is_refused_in_words(empty, kind, rule):
    """An object that breaks the rule is refused, with the field and the remedy."""
    messages = messages_of(kind)
    expected = [message for message in messages if rule.words in message]
    if rule.words in messages:
        expected = [rule.words]
    assert len(expected) <= 1, f"{rule.words!r} is part of {expected}; write more of it"
    words = re.escape(expected[0] if expected else rule.words)
    places = "|".join(expression(path) for path in messages[expected[0]]) if expected else ""

    for patch in rule.bad:
        answer = empty.verdict(whole(kind, patch))
        assert re.search(f"({places}): Invalid value: .*{words}" if places else words, answer), f"{patch}\n{answer}"
        assert "should match" not in answer, "users cannot read a regular expression"


def test_no_nodes_are_not_several(empty):
    """A job with nodes: 0 is refused with the minimum, and without hints about several nodes."""
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
@pytest.mark.parametrize(("kind", "change"), CHANGES)
def test_what_is_fixed_stays(stored, kind, change):
    """A field that decides a result cannot be changed or removed; the refusal names the field and the remedy."""
    answer = stored.verdict(placed(whole(kind), change.path, change.value))

    assert f"{change.path[-1]} cannot be changed; make a new object with another name" in answer


@pytest.mark.parametrize(
    ("kind", "patch"), [(kind, patch) for kind, material in MATERIALS.items() for patch in material.free]
)
def test_what_is_free_can_be_changed(stored, kind, patch):
    """A field that steers an object can be changed at any time."""
    assert stored.verdict(whole(kind, {"spec": patch})) == ""


@pytest.mark.parametrize("kind", MATERIALS)
def test_the_defaults_are_written_into_the_object(api, kind):
    """The least that a user can write is accepted, and `kubectl get -o yaml` shows what was assumed."""
    material, name = MATERIALS[kind], whole(kind)["metadata"]["name"]
    api.apply(applied(kind, name, material.least))

    assert api.get(kind, name)["spec"] == merged(material.least, material.defaults)


def test_an_endpoint_that_is_applied_again_is_unchanged(api):
    """kubectl replaces lists as a whole, so nothing is written into the deployments that their author left out."""
    deployments = [
        {"name": "blue", "model": "m@1", "requestSettings": {}, "batching": {"maxBatchSize": 8}},
        {"name": "green", "model": "m@2", "autoscale": {"maxReplicas": 2, "metric": "concurrency", "target": 1}},
        {"name": "many", "pool": {"selector": {"matchLabels": {"tier": "small"}}}},
    ]
    rollout = {"candidate": "green", "steps": [10, 100], "gates": {"errorRateIncrease": 0.01}}
    spec = {"traffic": {"blue": 100}, "deployments": deployments, "rollout": rollout}
    manifest = {
        "apiVersion": "ultramarine.dev/v1alpha1",
        "kind": "OnlineEndpoint",
        "metadata": {"name": "b"},
        "spec": spec,
    }
    text = json.dumps(manifest)

    assert api.run("apply", "-f", "-", input=text).strip().endswith("created")
    for _ in range(2):
        assert api.run("apply", "-f", "-", input=text).strip().endswith("unchanged")
    assert api.get("oe", "b")["spec"]["deployments"] == deployments


def nodes(schema: Manifest, path: Path) -> Iterator[tuple[Path, Manifest]]:
    """Every node of a schema with its path."""
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, (*path, name))
    if "items" in schema:
        yield from nodes(schema["items"], (*path, ITEM))
    if isinstance(schema.get("additionalProperties"), dict):
        yield from nodes(schema["additionalProperties"], (*path, VALUE))


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

    Only what concerns the registration of models and datasets is not there for trials.
    """
    own, borrowed = of_trials()
    job = copy.deepcopy(schema_of(documents()[TJ])["properties"]["spec"])
    output = job["properties"]["outputs"]["additionalProperties"]
    of_models = output.pop(CEL)
    for field in ("dataset", "optional"):
        del output["properties"][field]

    assert borrowed == job
    assert len(own) == 4
    of_mlflow = "!has(self.format) || self.format in ['auto', 'mlflow']"
    of_datasets = "!(has(self.registerAs) || self.fromMlflow)"
    conditions = [rule["rule"].partition(" || ")[2] for rule in of_models]
    assert conditions == [*["has(self.registerAs)"] * 3, of_mlflow, of_datasets]


def spec_nodes() -> Iterator[tuple[str, Path, Manifest]]:
    """Every node that a person writes, with its kind and path."""
    for kind, root in roots():
        yield from ((kind, path, node) for path, node in nodes(root["properties"]["spec"], ("spec",)))


@functools.cache
def messages_of(kind: str) -> dict[str, list[tuple[str, ...]]]:
    """Messages of a kind's CEL rules, and the paths that have them; without those of a borrowed schema."""
    messages: dict[str, list[tuple[str, ...]]] = {}
    for path, node in nodes(dict(roots())[kind], ()):
        if path[:1] != ("status",):
            for rule in node.get(CEL, []):
                messages.setdefault(rule["message"], []).append(path)
    return messages


# Kinds whose specs are parts of another kind's; their rules are broken there.
CONTAINED = {
    "AutoMLJob": (TJ, "Environment"),
    "Pipeline": (TJ, SWEEP, "Environment"),
    "PipelineRun": ("Pipeline", TJ, SWEEP, "Environment"),
}


def test_every_rule_has_a_test():
    """Each CEL rule is broken by an example of its kind's material, or by one that is enumerated."""
    for kind in MATERIALS:
        root = dict(roots())[kind]
        enumerated = {limit.message for limit in limits(root["properties"]["spec"], ("spec",))}
        words = [rule.words for part in (kind, *CONTAINED.get(kind, ())) for rule in MATERIALS[part].rules]
        untested = [
            message
            for message in messages_of(kind)
            if message not in enumerated
            and "cannot be changed; make a new object" not in message
            and "a cancelled run cannot go on" not in message  # tests/api/test_sdk.py
            and not any(part in message for part in words)
        ]
        assert untested == [], f"give {kind} an example of each in kinds/KIND/testing"


def test_no_pattern_is_left_to_speak_for_itself():
    """The API server answers a pattern with the expression; our schemas have rules with a sentence instead."""
    assert [(kind, path) for kind, path, node in spec_nodes() if "pattern" in node] == []
