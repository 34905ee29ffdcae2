"""Permission to run code at loading: given by a version, its Model or the output that made it, and by whom."""

from __future__ import annotations

from dataclasses import replace

import pytest
from builders import DIGEST, NOW, PLATFORM, condition, endpoint, model, ours, read, seen, training_job, version
from ultramarine_contract.common import OutputRecord
from ultramarine_contract.meta import ANNOTATION_REQUESTED_BY, ANNOTATION_TRUSTED_BY
from ultramarine_contract.serving_records import ServingTask
from ultramarine_contract.training_records import TerminationRecord
from ultramarine_contract.version_records import CompileTask
from ultramarine_operator.kinds.model.manifests import compile_job_name
from ultramarine_operator.kinds.model.plan import plan_version, questions_version
from ultramarine_operator.kinds.onlineendpoint.plan import plan as plan_endpoint
from ultramarine_operator.kinds.trainingjob.registration import to_register
from ultramarine_operator.shared.questions import ArtifactFacts, CheckArtifact, ReadText

ASK = CheckArtifact("s3://lake/churn/1/")
FOUND = {ASK: ArtifactFacts(DIGEST, 42)}
KNOWS = replace(PLATFORM, knows_requester=True)
TRUSTING = model(trust={"allowCodeExecution": True})


def pickled(status=None, **spec):
    """ModelVersion churn-1, a pickle."""
    return read(ours("ModelVersion", "churn-1", {**version(1, format={"name": "pickle"})["spec"], **spec}, status))


def by(manifest, user):
    """The object as the API server says who allowed it."""
    return {**manifest, "metadata": {**manifest["metadata"], "annotations": {ANNOTATION_TRUSTED_BY: user}}}


def test_a_pickle_is_refused_with_both_ways_out():
    """The message names the field of the version and the one of its Model."""
    got = plan_version(pickled(), seen(related=(model(),)), NOW)

    assert condition(got, "Ready")["reason"] == "CodeExecutionRefused"
    message = condition(got, "Ready")["message"]
    assert "spec.allowCodeExecution" in message
    assert "spec.trust.allowCodeExecution of Model churn" in message
    assert "codeExecution" not in got.status


@pytest.mark.parametrize("platform", [PLATFORM, KNOWS])
def test_a_model_that_is_trusted_trusts_its_versions(platform):
    """A pickle of such a Model is ready, and the status says through what and, where it can be known, by whom."""
    there = replace(seen(related=(by(TRUSTING, "ada"),), answers=FOUND), platform=platform)
    assert questions_version(pickled(), there) == (ASK,)
    got = plan_version(pickled(), there, NOW)

    assert got.status["state"] == "Ready"
    reported = got.status["codeExecution"]
    assert reported["through"] == "spec.trust.allowCodeExecution of Model churn"
    assert reported.get("allowedBy") == ("ada" if platform.knows_requester else None)
    again = plan_version(pickled(got.status), there, NOW.replace(hour=13))
    assert again.status["codeExecution"]["since"] == reported["since"] == "2030-01-01T12:00:00Z"


def test_trust_that_is_taken_back_refuses_the_version():
    """A version that was ready is refused; what endpoints have of it is theirs to keep."""
    ready = plan_version(pickled(), seen(related=(TRUSTING,), answers=FOUND), NOW).status
    got = plan_version(pickled(ready), seen(related=(model(),)), NOW)

    assert (got.status["state"], condition(got, "Ready")["reason"]) == ("Refused", "CodeExecutionRefused")
    assert "codeExecution" not in got.status


def test_a_version_that_allows_it_names_itself():
    """A permission of the version itself is not attributed to its Model."""
    churn = pickled(allowCodeExecution=True)
    churn = read(by(churn.manifest, "bob"))
    got = plan_version(churn, replace(seen(related=(by(TRUSTING, "ada"),), answers=FOUND), platform=KNOWS), NOW)

    assert got.status["codeExecution"]["allowedBy"] == "bob"
    assert got.status["codeExecution"]["through"] == "spec.allowCodeExecution of ModelVersion churn-1"


@pytest.mark.parametrize(("models", "allowed"), [((), False), ((model(),), False), ((TRUSTING,), True)])
def test_the_servers_are_told(models, allowed):
    """The pods of an endpoint may run code if the Model says so."""
    got = plan_endpoint(endpoint(), seen(related=(version(1), *models)), NOW)
    [deployment] = [item for item in got.apply if item["kind"] == "Deployment"]
    [variable, *_] = deployment["spec"]["template"]["spec"]["containers"][0]["env"]

    assert ServingTask.from_json(variable["value"]).allow_code_execution is allowed


@pytest.mark.parametrize("allowed", [False, True])
def test_an_output_says_it_for_the_versions_made_of_it(allowed):
    """A version that a job registers carries what its output says, and who asked for the job."""
    job = training_job(outputs={"model": {"registerAs": "churn", "allowCodeExecution": allowed}})
    job.manifest["metadata"]["annotations"] = {ANNOTATION_REQUESTED_BY: "ada"}
    record = TerminationRecord(outputs={"model": OutputRecord("s3://lake/a/", DIGEST, 9, "pickle")})
    first, made = to_register(job, record, replace(seen(), platform=KNOWS))

    assert first["kind"] == "Model"
    for item in (first, made):
        assert item["metadata"]["annotations"] == {ANNOTATION_REQUESTED_BY: "ada"}
    assert made["spec"].get("allowCodeExecution", False) is allowed
    assert made["spec"]["lineage"]["requestedBy"] == "ada"


@pytest.mark.attack("model/trusted-by")
@pytest.mark.parametrize(("creator", "shown"), [("the operator", "ada"), ("mallory", "mallory"), ("", None)])
def test_who_asked_for_the_training_counts_only_from_the_operator(creator, shown):
    """A version that a person makes can say anything of its lineage: that person allowed it."""
    churn = read(by(pickled(allowCodeExecution=True, lineage={"requestedBy": "ada"}).manifest, creator))
    platform = replace(KNOWS, username="the operator")
    got = plan_version(churn, replace(seen(answers=FOUND), platform=platform), NOW)

    assert got.status["codeExecution"].get("allowedBy") == shown


# What was refused is tried again.


def refused(**spec):
    """ModelVersion churn-1, a .skops file whose compiling was refused, with what its spec says now."""
    ended = [
        {"type": kind, "status": "False", "reason": "CodeExecutionRefused", "message": "holds a.B"}
        for kind in ("Ready", "Compiled")
    ]
    whole = {**version(1)["spec"], "compile": {"to": "onnx"}, **spec}
    return read(ours("ModelVersion", "churn-1", whole, {"state": "Refused", "conditions": ended}))


@pytest.mark.parametrize("compile", [{"to": "onnx"}, None])
@pytest.mark.parametrize(("spec", "models"), [({"allowCodeExecution": True}, ()), ({}, (TRUSTING,))])
def test_compiling_that_was_refused_is_tried_again_when_it_is_allowed(spec, models, compile):
    """Another Job, with the permission in its task, whose verdict has a place of its own."""
    churn = refused(**spec, compile=compile)
    there = seen(related=models)
    [ask] = questions_version(churn, there)
    got = plan_version(churn, there, NOW)
    while not got.apply:  # one in the background lets servers start first
        assert got.after
        got = plan_version(replace(churn, manifest={**churn.manifest, "status": got.status}), there, NOW + got.after)
    [job] = got.apply
    task = CompileTask.from_json(job["spec"]["template"]["spec"]["initContainers"][1]["env"][0]["value"])

    assert isinstance(ask, ReadText)
    assert ask.uri.startswith(task.prefix)
    assert task.allow_code_execution
    assert job["metadata"]["name"] == "churn-1-compile-code"
    assert condition(got, "Compiled")["reason"] == "Compiling"
    assert condition(got, "Ready")["status"] == ("False" if compile else "True")


def test_the_job_of_the_longest_name_is_one_that_kubernetes_takes():
    """A Job's name is a label of its pods, which has 63 characters at most."""
    spec = {**version(1)["spec"], "model": "m" * 40, "version": "9" * 9, "allowCodeExecution": True}
    churn = read(ours("ModelVersion", f"{'m' * 40}-{'9' * 9}", spec))

    assert len(compile_job_name(churn)) == 63


def test_what_is_refused_still_is_not_tried_again():
    """As long as nothing was allowed, the verdict stays, and nothing is asked or made."""
    got = plan_version(refused(), seen(related=(model(),)), NOW)

    assert questions_version(refused(), seen(related=(model(),))) == ()
    assert got.apply == ()
    assert got.status["state"] == "Refused"
    assert condition(got, "Stalled")["message"] == "holds a.B"


# What the trainer has found in a .skops file.


def holding(*types, **spec):
    """ModelVersion churn-1, a .skops file with these types."""
    return read(
        ours(
            "ModelVersion",
            "churn-1",
            {**version(1)["spec"], "format": {"name": "sklearn", "untrustedTypes": [*types]}, **spec},
        )
    )


def test_a_version_says_at_registration_what_a_server_will_refuse():
    """Ready is False from the first pass, with the types and the remedies; nothing is asked of the storage."""
    churn = holding("team.Model", "numpy.exec by FunctionNode")
    got = plan_version(churn, seen(), NOW)

    assert questions_version(churn, seen()) == ()
    assert (got.status["state"], condition(got, "Ready")["reason"]) == ("Refused", "CodeExecutionRefused")
    assert "safe: numpy.exec by FunctionNode, team.Model; if you trust" in condition(got, "Ready")["message"]
    got = plan_version(holding("__main__.Model"), seen(), NOW)
    assert "__main__.Model; no server has the code of a training script" in condition(got, "Ready")["message"]


@pytest.mark.parametrize(
    ("churn", "models"),
    [
        (holding("team.Model", allowCodeExecution=True), ()),
        (holding("team.Model"), (TRUSTING,)),
        (holding("sklearn.linear_model._base.LinearRegression"), ()),
    ],
)
def test_what_is_allowed_or_trusted_by_now_is_not_refused(churn, models):
    """Permission counts, and so does today's list of types, which an older trainer did not have."""
    assert plan_version(churn, seen(related=models, answers=FOUND), NOW).status["state"] == "Ready"


def test_what_a_record_says_of_types_is_bounded():
    """A command can write its own record: names come into the spec short and few."""
    job = training_job(outputs={"model": {"registerAs": "churn"}})
    words = ", ".join(f"a.{'b' * 300}{n}" for n in range(50))
    record = TerminationRecord(outputs={"model": OutputRecord("s3://lake/a/", DIGEST, 9, "sklearn", words)})
    *_, made = to_register(job, record, seen())

    types = made["spec"]["format"]["untrustedTypes"]
    assert (len(types), max(map(len, types))) == (10, 100)
