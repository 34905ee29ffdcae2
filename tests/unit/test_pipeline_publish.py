"""Steps of pipelines that move an alias or a deployment to a version."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from ultramarine.resources.pipeline import PipelineSpec
from ultramarine.resources.pipeline_checks import pipeline_faults
from ultramarine_contract.meta import Manifest, Ref
from ultramarine_operator.kinds.pipeline import RUN_KIND
from ultramarine_operator.kinds.pipeline.testing.samples import after, done, planned, run_of
from ultramarine_operator.shared.plan import Edit, Obj, Plan
from ultramarine_operator.shared.testing import child, stored

FIT = {"command": ["fit"], "outputs": {"model": {"registerAs": "churn"}}}
FITTED = f"s3://lake/team-a/trainingjobs/nightly-fit/uid/model/{'a' * 16}/"
READY = {"conditions": [{"type": "Ready", "status": "True", "message": ""}]}
ALIAS = {"model": "churn", "version": "$(steps.fit.outputs.model)", "alias": "champion"}
DEPLOYMENT = {"model": "churn", "version": "8", "endpoint": "churn", "deployment": "green"}


def model(**aliases: Any) -> Manifest:
    """The Model churn, whose newest version is 8."""
    return stored("Model", "churn", {"aliases": aliases} if aliases else {}, {"latestVersion": "8"})


def version(number: int, uri: str, status: Manifest | None = None) -> Manifest:
    """A version of the Model churn."""
    spec = {"model": "churn", "version": str(number), "uri": uri, "digest": f"sha256:{number:064x}"}
    return stored("ModelVersion", f"churn-{number}", spec, READY if status is None else status)


VERSIONS = (version(7, "s3://lake/old/"), version(8, FITTED))


def endpoint(green: str = "churn@7", status: Manifest | None = None, **spec: Any) -> Manifest:
    """An OnlineEndpoint with the deployments blue and green."""
    deployments = [{"name": "blue", "model": "churn@6"}, {"name": "green", "model": green}]
    rollout = {"candidate": "green", "steps": [10, 100]}
    whole = {"traffic": {"blue": 100}, "rollout": rollout, "deployments": deployments, **spec}
    return stored("OnlineEndpoint", "churn", whole, {"observedGeneration": 1, **(status or {})})


def serving(phase: str, number: int = 8) -> Manifest:
    """Status of an endpoint whose green deployment is to serve a version."""
    deployments = [{"name": "green", "modelVersion": f"churn-{number}", "state": "Ready"}]
    return {"deployments": deployments, "rollout": {"phase": phase, "message": "p99 is 2 times as long"}}


class Story:
    """A run with a job that registers a model, and a step that publishes it."""

    def __init__(self, publish: Manifest, **step: Any) -> None:
        steps = [{"name": "fit", "cache": False, "trainingJob": FIT}, {"name": "publish", "publish": publish, **step}]
        steps[1].setdefault("after", ["fit"])
        self.run = run_of(steps)
        self.job = child("TrainingJob", "nightly-fit", self.run, FIT)
        self.look()
        self.job = done(self.run, self.job)

    def look(self, *world: Manifest, **spec: Any) -> Plan:
        """One pass."""
        manifest = {**self.run.manifest, "spec": {**self.run.manifest["spec"], **spec}}
        self.run = Obj(manifest, type(self.run.spec).model_validate(manifest["spec"]))
        plan = planned(self.run, self.job, related=world)
        self.run = after(self.run, plan)
        return plan

    def publish(self, *world: Manifest) -> tuple[str, str]:
        """Look until nothing changes in this world; return state and message of the step."""
        self.look(*world)
        plan = self.look(*world)
        return str(step_of(plan)["state"]), str(step_of(plan).get("message", ""))


def step_of(plan: Plan) -> Manifest:
    """The status of the step that publishes."""
    return next(step for step in plan.status["steps"] if step["name"] == "publish")


def test_an_alias_moves_to_the_version_that_a_step_registered():
    """The status names what moves before it does; a pass that sees it moved ends the step and the run."""
    story, world = Story(ALIAS), (model(champion="7"), *VERSIONS)
    first = story.look(*world)
    assert (first.edits, first.after) == ((), timedelta())
    published = {"kind": "Model", "name": "churn", "version": "8", "former": "7", "alias": "champion"}
    assert step_of(first)["published"] == published
    assert "churn" in RUN_KIND.topics({**story.run.manifest, "status": first.status})

    (edit,) = story.look(*world).edits
    assert (edit.ref.name, edit.path, edit.value) == ("churn", "/spec/aliases/champion", "8")
    assert story.look(*world).edits == (edit,)  # an edit that was lost is made again
    last = story.look(model(champion="8"), *VERSIONS)
    assert not last.edits
    assert last.status["state"] == "Succeeded"
    assert step_of(last)["published"] == published
    assert step_of(last)["message"] == "alias champion of Model churn leads to version 8, and led to 7 before"


def test_the_first_alias_of_a_model_is_added():
    """A Model without aliases gets the field."""
    story = Story(ALIAS)
    story.look(model(), *VERSIONS)
    (edit,) = story.look(model(), *VERSIONS).edits
    assert (edit.path, edit.value) == ("/spec/aliases", {"champion": "8"})


@pytest.mark.parametrize("moment", ["before", "meanwhile"])
def test_an_alias_never_moves_back(moment):
    """A version that is older than the alias's is not published, and the step says so."""
    story, newer = Story(ALIAS), (model(champion="9"), *VERSIONS)
    story.look(*(newer if moment == "before" else (model(champion="7"), *VERSIONS)))
    last = story.look(*newer)
    assert not last.edits
    assert last.status["state"] == "Succeeded"
    assert step_of(last)["state"] == "Skipped"
    assert step_of(last)["message"] == "alias champion of Model churn leads to version 9, which is newer than 8"


def test_a_deployment_gets_the_version_and_its_rollout_is_awaited():
    """The deployment's model is set; the step ends when the rollout of this very version is promoted."""
    story, world = Story({**DEPLOYMENT, "wait": True}), (model(), *VERSIONS)
    story.look(endpoint(), *world)
    assert story.look(endpoint(), *world).edits == (
        Edit(Ref.to(RUN_KIND.edits[2], endpoint()), "/spec/deployments/1/model", "churn@8"),
    )
    old = endpoint("churn@8", {**serving("Promoted"), "observedGeneration": 0})
    for state, words in (
        (old, "is to serve churn-8"),
        (endpoint("churn@8", serving("Promoted", 7)), "is to serve churn-8"),
        (endpoint("churn@8", serving("Progressing")), "rollout Progressing"),
    ):
        plan = story.look(state, *world)
        assert (step_of(plan)["state"], plan.edits) == ("Running", ())
        assert words in step_of(plan)["message"]
    assert story.look(endpoint("churn@8", serving("Promoted")), *world).status["state"] == "Succeeded"


def test_a_rollout_that_is_rolled_back_fails_the_step():
    """The step says why the version does not serve."""
    story = Story({**DEPLOYMENT, "wait": True})
    state, message = story.publish(endpoint("churn@8", serving("RolledBack")), model(), *VERSIONS)
    assert state == "Failed"
    assert message == "deployment green of OnlineEndpoint churn was rolled back: p99 is 2 times as long"


def test_a_deployment_without_a_rollout_is_awaited_until_it_is_ready():
    """A deployment that follows the alias is ready with the version before the step ends."""
    story, world = Story({**ALIAS, "endpoint": "churn", "wait": True}), (model(champion="8"), *VERSIONS)
    starting = {"name": "green", "modelVersion": "churn-8", "state": "Updating", "message": "0 of 1 pods"}
    plain: Manifest = {"rollout": None}
    state, message = story.publish(endpoint("churn@champion", {"deployments": [starting]}, **plain), *world)
    assert (state, message) == ("Running", "deployment green of OnlineEndpoint churn is Updating: 0 of 1 pods")
    ready = {"deployments": [{**starting, "state": "Ready"}]}
    assert story.look(endpoint("churn@champion", ready, **plain), *world).status["state"] == "Succeeded"


def test_a_version_that_is_not_ready_is_waited_for():
    """An alias does not move to a version that cannot be served; a time limit ends the wait."""
    refused = version(8, FITTED, {"conditions": [{"type": "Ready", "status": "False", "message": "it may run code"}]})
    story = Story(ALIAS, timeoutSeconds=60)
    state, message = story.publish(model(champion="7"), VERSIONS[0], refused)
    assert (state, message) == ("Running", "alias champion of Model churn waits for churn-8: it may run code")
    status = story.run.status
    begun = [{**step, "startTime": "2029-12-31T00:00:00Z"} for step in status["steps"]]
    story.run = Obj({**story.run.manifest, "status": {**status, "steps": begun}}, story.run.spec)
    last = story.look(model(champion="7"), VERSIONS[0], refused)
    assert "not finished within timeoutSeconds=60" in step_of(last)["message"]


@pytest.mark.parametrize(
    ("publish", "world", "words"),
    [
        (ALIAS, (), "Model churn does not exist"),
        (ALIAS, (model(), VERSIONS[0]), "no version of Model churn has the files of s3://"),
        ({**ALIAS, "version": "9"}, (model(), *VERSIONS), "Model churn has no version 9"),
        (DEPLOYMENT, (model(), *VERSIONS), "OnlineEndpoint churn does not exist"),
        ({**DEPLOYMENT, "deployment": "red"}, (endpoint(), model(), *VERSIONS), "(it has: blue, green)"),
        (DEPLOYMENT, (endpoint("other@1"), model(), *VERSIONS), "serves other, not Model churn"),
        (DEPLOYMENT, (endpoint("churn@champion"), model(), *VERSIONS), "follows churn@champion; publish the alias"),
    ],
)
def test_what_cannot_be_published_fails_the_step(publish, world, words):
    """The step names what is missing, and the run fails."""
    state, message = Story(publish).publish(*world)
    assert state == "Failed"
    assert words in message


def test_a_dataset_with_equal_content_keeps_its_version():
    """A step whose output made no new version publishes the version with the same content."""
    job = {"command": ["clean"], "outputs": {"model": {"dataset": "clean"}}}
    steps = [
        {"name": "clean", "cache": False, "trainingJob": job},
        {"name": "publish", "publish": {"dataset": "clean", "version": "$(steps.clean.outputs.model)", "alias": "g"}},
    ]
    run = run_of(steps)
    made = child("TrainingJob", "nightly-clean", run, job)
    run = after(run, planned(run, made))
    spec = {"dataset": "clean", "version": "1", "uri": "s3://lake/other/", "digest": f"sha256:{'a' * 64}"}
    world = (stored("Dataset", "clean", {}, {"latestVersion": "1"}), stored("DatasetVersion", "clean-1", spec, READY))
    run = after(run, planned(run, done(run, made), related=world))
    (edit,) = planned(run, done(run, made), related=world).edits
    assert (edit.ref.resource.kind, edit.value) == ("Dataset", {"g": "1"})


def test_a_cancelled_run_publishes_nothing_more():
    """A step that has not moved its alias yet fails with the run, and moves nothing."""
    story, world = Story(ALIAS), (model(champion="7"), *VERSIONS)
    story.look(*world)
    assert not story.look(*world, suspend=True).edits
    last = story.look(*world, suspend=False, cancel=True)
    assert (last.status["state"], last.edits) == ("Cancelled", ())


@pytest.mark.parametrize(
    ("publish", "words"),
    [
        ({**ALIAS, "model": "other"}, "expected a version of Model other; step fit registers it as a version of Model"),
        ({**ALIAS, "version": "$(steps.plain.outputs.x)"}, "expected a version of Model churn; step plain does not"),
        ({**ALIAS, "version": "$(steps.fit.metrics.auc)"}, "version: expected folder or string, got number"),
        ({**ALIAS, "model": "$(steps.fit.outputs.model)"}, "model: expected string or item, got folder"),
    ],
)
def test_a_fault_is_found_before_anything_runs(publish, words):
    """An output that becomes no version of the model is refused with the pipeline."""
    plain = {"command": ["x"], "outputs": {"x": {}}}
    steps = [{"name": "fit", "trainingJob": FIT}, {"name": "plain", "trainingJob": plain}]
    spec = PipelineSpec.model_validate({"steps": [*steps, {"name": "publish", "publish": publish}]})
    (fault,) = pipeline_faults(spec)
    assert words in fault
