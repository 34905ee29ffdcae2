"""Test material of Pipeline and PipelineRun."""

from ultramarine_contract.meta import Manifest

from ....shared.testing import NAME_OF_40, Material, Neighbour, Rule, applied, clash, named, rule
from .lives import LIVES, PIPELINE_LIVES
from .samples import SAMPLES, STEPS, WHOLE_PIPELINE, WHOLE_RUN, applied_run, complete, complete_run, pipeline

_JOB = {"trainingJob": {"command": ["true"]}}
_RAW: Manifest = {"outputs": None, "parameters": {"raw": {"type": "dataset"}}}
_WHILE = {"condition": "true", "maxIterations": 2}
_ALIAS = {"model": "churn", "version": "1", "alias": "champion"}
_DEPLOYMENT = {"model": "churn", "version": "1", "endpoint": "churn", "deployment": "green"}


def _publishes(words: str, *documents: Manifest) -> Rule:
    """A rule of `publish`: the first document keeps it, the others break it."""
    steps: list[Manifest] = [{"outputs": None, "steps": [{"name": "a", "publish": document}]} for document in documents]
    return rule(words, *steps)


PIPELINE_MATERIAL = Material(
    kind="Pipeline",
    whole={"metadata": {"name": "churn"}, "spec": WHOLE_PIPELINE},
    least={"steps": [{"name": "a", **_JOB}]},
    defaults={"continueOnStepFailure": False, "steps": [{"name": "a", **_JOB, "retries": 0, "cache": True}]},
    edit={"description": "edited"},
    free=({"description": "other"}, {"continueOnStepFailure": False}),
    rules=(
        named("metadata.name must have at most 40", NAME_OF_40, NAME_OF_40 + "a"),
        named("metadata.name must not contain a dot", "a-b", "a.b"),
        rule(
            "give one of trainingJob, sweep, pipeline and publish",
            {"outputs": None, "steps": [{"name": "a", **_JOB}]},
            {"outputs": None, "steps": [{"name": "a"}]},
            {"outputs": None, "steps": [{"name": "a", **_JOB, "sweep": {}}]},
        ),
        _publishes("give one of model and dataset", {**_ALIAS}, {**_ALIAS, "dataset": "clean"}),
        _publishes("give one of alias and deployment", {**_ALIAS}, {"model": "churn", "version": "1"}),
        _publishes(
            "a dataset has aliases alone",
            {"dataset": "clean", "version": "1", "alias": "golden"},
            {"dataset": "clean", "version": "1", "endpoint": "churn", "deployment": "green"},
        ),
        _publishes(
            "give endpoint, which has the deployment",
            {**_DEPLOYMENT},
            {"model": "churn", "version": "1", "deployment": "green"},
        ),
        _publishes("give endpoint, whose rollout is awaited", {**_DEPLOYMENT, "wait": True}, {**_ALIAS, "wait": True}),
        rule(
            "give at most one of forEach and while",
            {"outputs": None, "steps": [{"name": "a", **_JOB, "while": _WHILE}]},
            {"outputs": None, "steps": [{"name": "a", **_JOB, "while": _WHILE, "forEach": {"items": [1]}}]},
        ),
        *(
            rule(
                "must be DATASET@VERSION, DATASET@ALIAS, DATASET@latest or $(params.NAME)",
                {**_RAW, "steps": [{"name": "a", **_JOB, "forEach": {"partitions": partitions}}]},
                {**_RAW, "steps": [{"name": "a", **_JOB, "forEach": {"partitions": broken}}]},
            )
            for partitions, broken in (("orders@latest", "orders"), ("$(params.raw)", "$(steps.a.outputs.raw)"))
        ),
        *(
            rule(
                "each key must be letters, digits, '_' and '-'",
                {field: {"a_b-1": value}},
                {field: {"a b": value}},
            )
            for field, value in (("parameters", {"type": "string"}), ("outputs", "$(steps.fetch.outputs.raw)"))
        ),
    ),
    lives=PIPELINE_LIVES,
    complete=complete,
    neighbour=Neighbour(lambda name, _: applied("Pipeline", name, pipeline()), ready=True),
)
RUN_MATERIAL = Material(
    kind="PipelineRun",
    whole={"metadata": {"name": "nightly"}, "spec": WHOLE_RUN},
    least={"pipeline": "churn"},
    defaults={"forceRerun": False, "suspend": False, "cancel": False},
    edit={"ttlSecondsAfterFinished": 86400},
    free=({"suspend": True, "ttlSecondsAfterFinished": None}, {"cancel": True}),
    rules=(
        named("metadata.name must have at most 40", NAME_OF_40, NAME_OF_40 + "a"),
        named("must start with a letter", "a-b", "a.b", "1a"),
        clash(
            "give one of pipeline and pipelineSpec",
            {"pipeline": "a", "pipelineSpec": None},
            {"pipeline": "a", "pipelineSpec": {"outputs": None, "steps": [{"name": "a", **_JOB}]}},
            {"pipeline": None, "pipelineSpec": None},
        ),
        clash(
            "give at most one of rerun and forceRerun",
            {"rerun": {"of": "a"}, "forceRerun": False},
            {"rerun": {"of": "a"}, "forceRerun": True},
        ),
    ),
    lives=LIVES,
    samples=SAMPLES,
    complete=complete_run,
    borrowed=("spec", "pipelineSpec"),
    # Not from the cache: runs with equal steps would share one job.
    neighbour=Neighbour(
        lambda name, _: applied_run(name, [{**STEPS[0], "cache": False}]),
        children=(("TrainingJob", "NAME-clean"), ("Job", "NAME-clean")),
        pods=(("NAME-clean-0-abcde", ("Job", "NAME-clean")),),
    ),
    final=("Succeeded", "Failed", "Cancelled"),
)
