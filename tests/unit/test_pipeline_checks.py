"""Checks of pipelines before anything runs."""

from __future__ import annotations

from typing import Any

import pytest
from ultramarine.resources import pipeline_conditions as conditions
from ultramarine.resources.pipeline import PipelineSpec
from ultramarine.resources.pipeline_checks import parameter_values, pipeline_faults
from ultramarine.resources.pipeline_conditions import ConditionError
from ultramarine.resources.pipeline_references import filled
from ultramarine.resources.pipeline_steps import ordered
from ultramarine_contract.errors import InvalidSpec

PARAMETERS = {
    "rate": {"type": "number", "default": 0.1, "minimum": 0, "maximum": 1},
    "raw": {"type": "uri"},
    "data": {"type": "dataset", "default": "churn@latest"},
    "nodes": {"type": "integer", "default": 2},
    "flag": {"type": "boolean", "default": True},
    "factor": {"type": "number", "default": 2},
    "figure": {"type": "string", "default": "3"},
    "regions": {"type": "list", "default": ["n", "s"]},
}
CLEAN = {"command": ["clean"], "inputs": {"raw": {"uri": "$(params.raw)"}}, "outputs": {"table": {}}}


def step(name: str, /, job: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """A step with a TrainingJob."""
    return {"name": name, "trainingJob": {"command": ["true"], **(job or {})}, **fields}


def pipeline(*steps: dict[str, Any], **fields: Any) -> PipelineSpec:
    """A pipeline with these steps."""
    return PipelineSpec.model_validate({"parameters": PARAMETERS, "steps": list(steps), **fields})


def faults(*steps: dict[str, Any], **fields: Any) -> list[str]:
    """The faults of a pipeline with these steps."""
    return list(pipeline_faults(pipeline(*steps, **fields)))


def test_a_sound_pipeline_has_no_fault():
    """References to parameters, outputs and metrics, conditions and repetitions are accepted."""
    tune = {"command": ["tune", "--n=$(params.nodes)"], "inputs": {"table": {"uri": "$(steps.clean.outputs.table)"}}}
    space = {"lr": {"uniform": {"min": 0, "max": 1}}}
    sweep = {
        "objective": {"metric": "auc", "goal": "maximize"},
        "searchSpace": space,
        "limits": {"maxTrials": 2},
        "trialTemplate": {"spec": {"command": ["tune", "$(params.lr)"], "outputs": {"model": {}}}},
    }
    assert not faults(
        step("clean", CLEAN),
        step("tune", {**tune, "nodes": "$(params.nodes)", "framework": "none"}, when="params.rate > 0.0"),
        {"name": "search", "after": ["tune"], "sweep": sweep},
        step("each", {"command": ["$(item)"]}, forEach={"items": "$(params.regions)"}),
        step(
            "months",
            {
                "command": ["$(item.key)", "$(item.values.month)"],
                "inputs": {"orders": {"uri": "$(item.uri)", "digest": "$(item.digest)"}},
            },
            forEach={"partitions": "$(params.data)"},
        ),
        step("more", {}, **{"while": {"condition": "steps.more.metrics.loss > 0.1", "maxIterations": 3}}),
        {"name": "nested", "pipeline": {"name": "other", "parameters": {"auc": "$(steps.tune.metrics.auc)"}}},
        outputs={"model": "$(steps.search.outputs.model)"},
        **{"finally": [step("mail", {"command": ["mail", "$(steps.clean.state)"]})]},
    )


@pytest.mark.parametrize(
    ("faulty", "words"),
    [
        (step("clean", {"inputs": {"raw": {"uri": "$(params.rate)"}}}), "clean: inputs.raw: expected uri, got number"),
        (step("a", {"nodes": "$(params.raw)"}), "a: nodes: expected integer, got uri"),
        (step("a", {"nodes": "many"}), "a: nodes: expected integer, got string"),
        (step("a", {"nodes": "2"}), "a: nodes: expected integer, got string"),
        (step("a", {"nodes": "$(params.flag)"}), "a: nodes: expected integer, got boolean"),
        (step("a", {"nodes": "$(params.factor)"}), "a: nodes: expected integer, got number"),
        (step("a", {"nodes": "$(params.figure)"}), "a: nodes: expected integer, got string"),
        (step("a", {"nodess": 2}), "a: nodess: unknown field"),
        (step("a", {"command": "train"}), "a: command: expected list, got string"),
        ({"name": "a", "trainingJob": {}}, "a: command: required; add it"),
        (
            step("a", {"command": ["$(params.rat)"]}),
            "has no parameter 'rat' (it has: data, factor, figure, flag, nodes, rate, raw, regions)",
        ),
        (step("a", {"command": ["$(steps.b.outputs.x)"]}), "no step is named 'b' (steps: a)"),
        (step("a", {"command": ["$(steps.a.metrics.x)"]}), "the step refers to itself"),
        (step("a", {"command": ["$(steps.b)"]}), "$(steps.b) is not a reference"),
        (step("a", {"command": ["$(item)"]}), "$(item) needs forEach or while"),
        (step("a", forEach={"items": "$(params.rate)"}), "forEach.items: expected list, got number"),
        (step("a", forEach={"items": 3}), "forEach.items: expected list, got integer"),
        (step("a", forEach={"parallel": 2}), "forEach: give one of items and partitions"),
        (step("a", forEach={"items": [1], "partitions": "a@1"}), "forEach: give one of items and partitions"),
        (step("a", forEach={"partitions": "$(params.rate)"}), "forEach.partitions: expected dataset, got number"),
        (step("a", forEach={"partitions": "$(params.x)"}), "forEach.partitions: the pipeline has no parameter 'x'"),
        (
            step("a", {"command": ["$(item)"]}, forEach={"partitions": "$(params.data)"}),
            "$(item) is not a field of a partition, which has $(item.uri)",
        ),
        (step("a", after=["b"]), "after: no step is named 'b'"),
        (step("a", when="steps.b.metrics.auc > 1"), "when: no step is named 'b'"),
        (step("a", when="params.x > 1"), "when: the pipeline has no parameter 'x'"),
        (step("a", when="1 +"), "when: it does not compile"),
        (step("a", when="auc > 1"), "when: auc is unknown"),
    ],
)
def test_a_fault_names_step_and_field(faulty, words):
    """A fault says which step and which field, what was expected and what there is."""
    (fault,) = faults(faulty)
    assert fault.startswith("step ")
    assert words in fault


def test_an_output_that_a_step_does_not_have_is_named():
    """A reference to a missing output names those that exist, in a step and in the pipeline's outputs."""
    other = step("a", {"inputs": {"x": {"uri": "$(steps.clean.outputs.tabel)"}}})
    assert faults(step("clean", CLEAN), other) == ["step a: inputs.x: step clean has no output 'tabel' (it has: table)"]
    assert faults(step("clean", CLEAN), outputs={"x": "$(steps.clean.outputs.y)"}) == [
        "outputs.x: step clean has no output 'y' (it has: table)"
    ]


def test_a_circle_is_shown():
    """Steps that wait for each other are named in their order."""
    circle = (step("a", after=["c"]), step("b", after=["a"]), step("c", when="steps.b.state == 'Succeeded'"))
    assert faults(*circle) == ["steps depend on each other in a circle: a -> c -> b -> a"]


def test_two_steps_of_one_name_are_refused():
    """A name stands for one step, and not for a repetition of another."""
    assert "two steps have this name" in faults(step("a"), **{"finally": [step("a")]})[0]
    repeated = step("a", forEach={"items": [1]})
    assert faults(repeated, step("a-0")) == ["step a-0: a repetition of step a has this name; rename the step"]


def test_an_order_follows_from_references():
    """A step stands behind those that it refers to, in its document, its condition and its list."""
    steps = ordered(
        pipeline(
            step("d", {"command": ["$(steps.c.outputs.x)"]}),
            step("c", {"outputs": {"x": {}}}, when="steps.b.metrics.auc > 0.5"),
            step("b", forEach={"items": "$(steps.a.outputs.parts)"}),
            step("a", {"outputs": {"parts": {}}}),
        )
    )
    assert [item.name for item, _ in steps] == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "parameters.raw: expected uri, got nothing"),
        ({"raw": "s3://b/x", "rat": 1}, "parameters.rat: the pipeline has no such parameter (it has: data, "),
        ({"raw": "s3://b/x", "rate": "1"}, "parameters.rate: expected number, got string"),
        ({"raw": "s3://b/x", "rate": True}, "parameters.rate: expected number, got boolean"),
        ({"raw": "s3://b/x", "rate": 2}, "parameters.rate: expected at most 1, got 2"),
        ({"raw": "s3://b/x", "nodes": 1.5}, "parameters.nodes: expected integer, got number"),
        ({"raw": "b/x"}, "parameters.raw: expected uri, got 'b/x'"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused(given, words):
    """A run's parameter is checked against its type and limits, by name."""
    with pytest.raises(InvalidSpec) as error:
        parameter_values(pipeline(step("a")), given)
    assert words in error.value.message


def test_a_forecast_has_the_numbers_that_the_api_server_stores():
    """A file may say 1.0 where the stored run has 1; both are the same work."""
    values = parameter_values(pipeline(step("a")), {"raw": "s3://b/x", "rate": 1.0, "nodes": 2.0})
    assert [repr(values[name]) for name in ("rate", "nodes")] == ["1", "2"]


def test_values_keep_their_types_and_own_parameters_stay():
    """A whole reference has the value's type, a part of a text its text, and a job's own parameter is the job's."""
    document = {
        "nodes": "$(params.nodes)",
        "command": ["$(params.nodes)", "--lr=$(params.lr)", "--r=$(params.rate)"],
        "parameters": {"lr": "$(params.rate)"},
        "source": {"inline": {"a.sh": "echo $(item)"}},
    }
    values = {"nodes": 2, "rate": 0.1}
    got = filled(document, lambda reference: values[reference.path[0]], own=("lr",))
    assert got == {
        "nodes": 2,
        "command": ["2", "--lr=$(params.lr)", "--r=0.1"],
        "parameters": {"lr": 0.1},
        "source": {"inline": {"a.sh": "echo $(item)"}},
    }


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("params.a.matches('(a+)+$')", "matches"),
        ("[1].all(x, [2].all(y, x > y))", "repetition within"),
        ("params.a == foo(1)", "unknown function"),
        ("!" * 900 + "true", "does not compile|nested more than"),
        ("steps.", "does not compile"),
    ],
)
def test_a_condition_that_could_cost_much_is_refused(expression, words):
    """A condition is any user's: it has no patterns, no nested repetition and no unbounded depth."""
    with pytest.raises(ConditionError, match=words):
        conditions.compiled(expression)


def test_a_condition_without_a_value_says_why():
    """A metric that no step printed, other types and texts are named."""
    values = {"steps": {"a": {"metrics": {}}}, "params": {"x": 1}}
    for expression, words in (
        ("steps.a.metrics.auc > 0.5", "step a printed no metric auc .it printed none."),
        ("params.x + 1", "must be true or false"),
        ("params.x > 'a'", "no value"),
        ("params.x * 'aaa' == ''", "only numbers"),
    ):
        with pytest.raises(ConditionError, match=words):
            conditions.holds(expression, values)
    assert conditions.holds("!has(steps.a.metrics.auc) && params.x == 1", values)
