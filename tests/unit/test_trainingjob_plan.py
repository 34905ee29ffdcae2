"""Plans of a TrainingJob."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from builders import (
    NOW,
    PLATFORM,
    condition,
    ended_container,
    job,
    kinds_of,
    model,
    model_output,
    pod,
    seen,
    succeeded_pod,
    training_job,
    version,
)
from msgspec import structs
from pydantic import ValidationError
from ultramarine_contract.errors import InvalidSpec, StorageError
from ultramarine_contract.meta import Manifest
from ultramarine_contract.score import score
from ultramarine_contract.training_records import TerminationRecord
from ultramarine_operator.kinds.trainingjob.manifests import context, output_prefix
from ultramarine_operator.kinds.trainingjob.plan import plan, questions
from ultramarine_operator.shared import pods
from ultramarine_operator.shared.plan import Obj
from ultramarine_operator.shared.questions import ReadText


def test_a_new_job_gets_its_source_and_its_pod():
    """A new TrainingJob makes a ConfigMap with its source and one Job, and says Pending."""
    got = plan(training_job(source={"inline": {"train.py": "print(1)"}}), seen(), NOW)

    assert kinds_of(got.apply) == ["ConfigMap/churn-source", "Job/churn"]
    assert got.status["state"] == "Pending"
    assert condition(got, "Accepted")["status"] == "True"


def test_references_are_filled_in():
    """$(params.X), $(inputs.X) and $(outputs.X) become values and folders."""
    got = plan(
        training_job(
            command=["train", "--lr=$(params.lr)"],
            args=["$(inputs.data)", "$(outputs.model)", "$(HOME)"],
            parameters={"lr": "0.1"},
            inputs={"data": {"uri": "s3://lake/x"}},
            outputs={"model": {}},
        ),
        seen(),
        NOW,
    )

    container = got.apply[-1]["spec"]["template"]["spec"]["containers"][0]
    assert container["args"] == ["train", "--lr=0.1", "/mnt/inputs/data", "/mnt/outputs/model", "$(HOME)"]


def test_numbers_and_booleans_are_taken_as_their_texts():
    """A parameter or a variable that is written without quotes is what JSON kept of it, as Python and YAML write it."""
    values = {"a": 0.1, "b": 1e-5, "c": True, "d": 3, "e": "1e-5", "f": 1e22, "g": -0.0, "h": False}
    job = training_job(
        command=[f"$(params.{name})" for name in values],
        parameters=values,
        env=[{"name": name, "value": value} for name, value in values.items()],
    )
    container = plan(job, seen(), NOW).apply[-1]["spec"]["template"]["spec"]["containers"][0]

    texts = ["0.1", "1e-05", "true", "3", "1e-5", "1e+22", "-0.0", "false"]
    assert container["args"] == texts
    assert [variable["value"] for variable in container["env"][-len(values) :]] == texts


@pytest.mark.parametrize("value", [[1], {"a": 1}, [], None])
def test_what_is_no_plain_value_is_no_parameter(value):
    """Without an admission policy pydantic refuses a list or an object, by the name of the parameter."""
    with pytest.raises(ValidationError, match=r"parameters\.rate"):
        training_job(parameters={"rate": value})


def test_a_long_list_of_names_is_cut():
    """Ten names are shown, and how many more there are."""
    names = {f"a{number:02}": "1" for number in range(13)}
    with pytest.raises(InvalidSpec, match=r"it has: a00, .*, a09 and 3 more\)"):
        plan(training_job(command=["$(params.a13)"], parameters=names), seen(), NOW)


@pytest.mark.attack(
    "author/expansion",
    asset="the task given to a pod",
    threat="`$(NAME)` in a command or URI is expanded by Kubernetes after admission",
    control="references are filled in once, and lead to named fields only; the task stands before the author's "
    "variables, so none of them is expanded into it",
)
def test_a_reference_to_nothing_is_refused_with_what_there_is():
    """A reference to a parameter that is not there names the place, the field and the known names."""
    with pytest.raises(InvalidSpec, match=r"spec\.command\[0\].*params\.rate.*spec\.parameters.*it has: lr"):
        plan(training_job(command=["$(params.rate)"], parameters={"lr": "1"}), seen(), NOW)


def test_a_reference_in_another_spelling_is_refused_before_the_job_begins():
    """Azure ML's and a wrong name are named with the right spelling; a job that has begun goes on as it is."""
    for text, meant in (
        ("--lr=${{ inputs.lr }}", "$(inputs.lr)"),
        ("${params.lr}", "$(params.lr)"),
        ("$(params.lr}", "$(params.lr)"),
        ("$(output.model)", "$(outputs.model)"),
        ("$(parameter.lr)", "$(params.lr)"),
    ):
        churn = training_job(command=["train", text])
        with pytest.raises(InvalidSpec, match=re.escape(f"; apply it again under another name, with {meant}")):
            plan(churn, seen(), NOW)
        assert plan(churn, seen(job(churn)), NOW).status["state"] != "Failed"
    right = [
        'python -c "print($(params.lr))"',
        '{"lr": $(params.lr)}',
        "$(basename $(inputs.data))/x",
        "wc -l $(ls $(inputs.data))",
        "$$(input.a) $(date) ${HOME}",
    ]
    data = {"data": {"uri": "s3://lake/digits/"}}
    assert plan(training_job(command=right, parameters={"lr": "1"}, inputs=data), seen(), NOW).apply


@pytest.mark.attack("author/expansion")
def test_no_variable_of_the_author_gets_into_the_task():
    """Kubernetes fills $(NAME) in from the variables before it, so the task and the storage's address come first."""
    job = training_job(env=[{"name": "A", "value": '"}'}], inputs={"data": {"uri": "s3://lake/$(A)"}})
    (made,) = [child for child in plan(job, seen(), NOW).apply if child["kind"] == "Job"]
    names = [variable["name"] for variable in made["spec"]["template"]["spec"]["containers"][0]["env"]]

    assert names == [
        "ULTRAMARINE_TASK",
        "ULTRAMARINE_STORAGE_ENDPOINT",
        "ULTRAMARINE_STORAGE_REGION",
        "ULTRAMARINE_POD",
        "ULTRAMARINE_CONTEXT",
        "A",
    ]


def test_a_running_pod_makes_the_job_running():
    """While its pod runs the job is Running, with the start time, the pod's name and the source's digest."""
    churn = training_job(source={"inline": {"a.py": ""}})
    got = plan(churn, seen(job(churn, active=1), pod(churn)), NOW)

    assert got.status["state"] == "Running"
    assert got.status["startTime"] == "2030-01-01T11:30:05Z"
    assert got.status["pod"] == "churn-0-abcde"
    assert got.status["provenance"]["sourceDigest"].startswith("sha256:")
    assert [event.reason for event in got.events] == ["Started"]


def test_a_pass_over_an_unchanged_job_asks_for_no_change_of_it():
    """A live Job is left as it was made, even by an older operator with another trainer image."""
    churn = training_job()
    newer = replace(PLATFORM, trainer_image="ultramarine/trainer:2")
    got = plan(churn, replace(seen(job(churn, active=1), pod(churn)), platform=newer), NOW)

    assert got.apply == ()


def test_suspending_changes_nothing_but_suspend():
    """spec.suspend is handed to the Job, whose template stays as it was."""
    before = job(training_job(), active=1)
    churn = training_job(suspend=True)
    got = plan(churn, seen(before), NOW)

    (expected,) = got.apply
    assert expected["spec"]["suspend"] is True
    assert expected["spec"]["template"] == before["spec"]["template"]
    assert got.status["state"] == "Suspended"


@pytest.mark.parametrize(
    ("reported", "reason", "words"),
    [
        (
            {
                "conditions": [
                    {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}
                ]
            },
            "Unschedulable",
            "no node takes pod churn-0-abcde: 0/1 nodes; ask for less in its resources.requests, or add a node",
        ),
        (
            {
                "conditions": [
                    {
                        "type": "PodScheduled",
                        "status": "False",
                        "reason": "Unschedulable",
                        "message": "0/1 nodes: 1 Insufficient nvidia.com/gpu.",
                    }
                ]
            },
            "Unschedulable",
            "0/1 nodes: 1 Insufficient nvidia.com/gpu.; ask for less in its resources.limits, or add a node",
        ),
        (
            {
                "conditions": [
                    {
                        "type": "PodScheduled",
                        "status": "False",
                        "reason": "Unschedulable",
                        "message": '0/1 nodes are available: persistentvolumeclaim "a" not found.',
                    }
                ]
            },
            "Unschedulable",
            '"a" not found.; create the claim, see why it is unbound (kubectl describe pvc), or correct '
            "spec.podTemplate.volumes",
        ),
        (
            {
                "conditions": [
                    {
                        "type": "PodScheduled",
                        "status": "False",
                        "reason": "Unschedulable",
                        "message": "1 node(s) didn't match Pod's node affinity/selector",
                    }
                ]
            },
            "Unschedulable",
            "affinity/selector; correct spec.podTemplate.nodeSelector, spec.podTemplate.affinity or the chart's "
            "training.nodeSelector, or add a node",
        ),
        (
            {
                "containerStatuses": [
                    {"image": "no:1", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "?"}}}
                ]
            },
            "ImagePullBackOff",
            "cannot pull image no:1 for pod churn-0-abcde",
        ),
        (
            {
                "containerStatuses": [
                    {"state": {"waiting": {"reason": "CreateContainerConfigError", "message": 'secret "s3" not found'}}}
                ]
            },
            "CreateContainerConfigError",
            "Secret s3 not found in team-a; create it",
        ),
    ],
)
def test_a_pod_that_cannot_start_is_explained(reported, reason, words):
    """A pod that waits for a person says for what, in the job's own condition and in an event."""
    churn = training_job()
    got = plan(churn, seen(job(churn, active=1), pod(churn, phase="Pending", **reported)), NOW)

    assert got.status["state"] == "Pending"
    assert condition(got, "Running")["reason"] == reason
    assert words in condition(got, "Running")["message"]
    assert [event.type for event in got.events] == ["Warning"]


def test_success_without_models_is_success_at_once():
    """A job whose pod succeeded is Succeeded with its outputs, metrics and duration."""
    churn = training_job(outputs={"report": {}})
    done = job(churn, "Complete", succeeded=1, completionTime="2030-01-01T11:31:15Z")
    got = plan(churn, seen(done, succeeded_pod(churn, report=model_output())), NOW)

    assert got.status["state"] == "Succeeded"
    assert got.status["outputs"]["report"]["uri"] == "s3://lake/out/model/aaaa/"
    assert got.status["metrics"] == {"latest": {"accuracy": 0.97}}
    assert (got.status["duration"], got.status["score"]) == ("1m10s", "accuracy=0.97")
    assert [event.reason for event in got.events] == ["Succeeded"]


def finished(*related, **status):
    """A job that has trained a model for the Model churn, with those related objects."""
    churn = training_job(outputs={"model": {"registerAs": "churn"}})
    done = job(churn, "Complete", succeeded=1)
    return churn, seen(done, succeeded_pod(churn, model=model_output()), related=related)


def test_the_first_model_is_version_one():
    """registerAs makes the Model where there is none, and its first version."""
    got = plan(*finished(), NOW)

    assert kinds_of(got.create) == ["Model/churn", "ModelVersion/churn-1"]
    assert condition(got, "Succeeded") == {}
    assert got.after < timedelta(seconds=1)


def test_the_next_version_is_one_above_the_highest_ever():
    """A number is not given twice, even when the version that had it was deleted."""
    former = model()
    former["status"] = {"latestVersion": "7"}
    got = plan(*finished(former, version(5)), NOW)

    assert kinds_of(got.create) == ["ModelVersion/churn-8"]


def test_a_table_becomes_the_first_version_of_its_dataset():
    """The output's dataset makes the Dataset where there is none, and the job ends when its version is there."""
    clean = training_job(outputs={"model": {"dataset": "clean"}})
    over = (job(clean, "Complete", succeeded=1), succeeded_pod(clean, model=model_output()))
    got = plan(clean, seen(*over), NOW)

    assert kinds_of(got.create) == ["Dataset/clean", "DatasetVersion/clean-1"]
    assert condition(got, "Succeeded") == {}

    done = plan(clean, seen(*over, related=got.create), NOW)
    assert (done.create, done.status["state"]) == ((), "Succeeded")


@pytest.mark.parametrize(("format", "asks"), [("sklearn", True), ("onnx", False)])
def test_an_outputs_wish_to_be_compiled_goes_to_its_version(format, asks):
    """The ModelVersion asks for what the output does, but for a model that is ONNX already."""
    expected = {"to": "onnx", "onFailure": "Fail", "parity": {"rtol": 0.001}}
    churn = training_job(outputs={"model": {"registerAs": "churn", "compile": expected}})
    pod = succeeded_pod(churn, model=structs.replace(model_output(), format=format))
    made = plan(churn, seen(job(churn, "Complete", succeeded=1), pod), NOW).create[-1]

    assert ("compile" in made["spec"]) == asks
    if asks:
        assert made["spec"]["compile"] == {**expected, "parity": {"rtol": 0.001, "labelAgreement": 1.0}}


def test_a_registered_output_is_not_registered_again():
    """A version that carries the job's uid is the job's version, whoever wrote it and when."""
    labels = {"ultramarine.dev/training-job-uid": "TrainingJob-churn-uid", "ultramarine.dev/output": "model"}
    got = plan(*finished(model(), version(3, labels=labels)), NOW)

    assert got.create == ()
    assert got.status["state"] == "Succeeded"
    assert got.status["outputs"]["model"]["modelVersion"] == "churn-3"


def test_the_result_is_read_from_the_storage_when_the_pod_is_gone():
    """A succeeded job whose pod was deleted asks the storage, and goes on with what it says."""
    churn = training_job(outputs={"report": {}})
    done = job(churn, "Complete", succeeded=1)
    (question,) = questions(churn, seen(done))
    assert question == ReadText(output_prefix(churn, PLATFORM) + "result.json")

    record = TerminationRecord(outputs={"report": model_output()})
    got = plan(churn, seen(done, answers={question: record.to_json()}), NOW)
    assert got.status["state"] == "Succeeded"

    unread = structs.replace(record, unread='"f1: 0.5" is not read as a metric: print f1=0.5')
    got = plan(churn, seen(done, answers={question: unread.to_json()}), NOW)
    wording = 'uploaded report; status.metrics is empty: "f1: 0.5" is not read as a metric: print f1=0.5'
    assert condition(got, "Succeeded")["message"] == wording

    got = plan(churn, seen(done, answers={question: StorageError("away", transient=True)}), NOW)
    assert condition(got, "Running")["reason"] == "ReadingResult"
    assert got.after is not None

    got = plan(churn, seen(done, answers={question: StorageError("not there", "ObjectNotFound")}), NOW)
    assert got.status["failure"]["reason"] == "ResultLost"


@pytest.mark.parametrize(
    "wording",
    [
        '{"outputs": {}, "reason": "", "metrics": {"accuracy": "high"}}',
        '{"outputs": {}, "reason": "", "metrics": {"accuracy": NaN}}',
        '{"outputs": {}, "reason": "", "metrics": {"accuracy": 1' + "0" * 400 + "}}",
        '{"outputs": {}, "reason": "", "metrics": 1}',
        '{"outputs": {}, "reason": "", "tail": ["a"]}',
        '{"outputs": {"model": {"uri": 1, "digest": "a", "bytes": 1}}, "reason": ""}',
        '{"outputs": {"model": {"uri": "a", "digest": "a", "bytes": 1.5}}, "reason": ""}',
        '{"outputs": ' + "[" * 2000 + "]" * 2000 + "}",
    ],
)
def test_last_words_of_another_shape_are_no_record(wording):
    """A command can write its pod's last words itself: what is not a record of ours in every field counts for none."""
    churn = training_job()
    succeeded = pod(churn, phase="Succeeded", **ended_container(0, "Completed", wording))
    got = plan(churn, seen(job(churn, "Complete", succeeded=1), succeeded), NOW)
    assert condition(got, "Running")["reason"] == "ReadingResult"

    failed = pod(churn, phase="Failed", **ended_container(1, "Error", wording))
    got = plan(churn, seen(job(churn, "Failed", "BackoffLimitExceeded", failed=1), failed), NOW)
    assert got.status["failure"]["tail"] == wording[:8192]


def failed_pod(owner, name, code, **record):
    """A failed pod with the trainer's own verdict."""
    reported = TerminationRecord(**record).to_json()
    return pod(owner, name, "Failed", **ended_container(code, message=reported))


def test_a_failed_attempt_with_retries_left_goes_on():
    """Between two attempts the job says what happened, and is not failed."""
    churn = training_job(backoffLimit=1)
    broken = failed_pod(churn, "churn-0-aaaaa", 3, reason="CommandFailed", message="command exited with code 3")
    got = plan(churn, seen(job(churn, failed=1), broken), NOW)

    assert got.status["state"] == "Pending"
    assert condition(got, "Running")["reason"] == "Retrying"
    assert "command exited with code 3" in condition(got, "Running")["message"]


@pytest.mark.parametrize(
    ("spec", "code", "reason"),
    [
        ({"backoffLimit": 3}, 203, "TrialTimeout"),
        ({"backoffLimit": 0}, 3, "CommandFailed"),
        (
            {"podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}}]}},
            42,
            "CommandFailed",
        ),
    ],
)
def test_the_last_attempt_promises_no_other(spec, code, reason):
    """A failure that ends the Job by rule or count is reported as last, also before the Job reports it."""
    churn = training_job(**spec)
    got = plan(churn, seen(job(churn), failed_pod(churn, "churn-0-aaaaa", code, reason=reason, message="because")), NOW)

    assert condition(got, "Running")["reason"] == "Finishing"
    assert condition(got, "Running")["message"].startswith("attempt 1 failed: because")
    assert "another attempt follows" not in condition(got, "Running")["message"]
    assert got.events == ()


def test_an_eviction_is_no_last_attempt():
    """It does not count, however few retries there are."""
    churn = training_job(backoffLimit=0)
    evicted = pod(churn, phase="Failed", reason="Evicted", message="the node was low on memory")
    evicted["status"]["conditions"] = [{"type": "DisruptionTarget", "status": "True"}]
    got = plan(churn, seen(job(churn), evicted), NOW)

    assert condition(got, "Running")["message"].endswith("another attempt follows")


def two_failures(churn: Obj[Any], node: str = "0") -> tuple[Manifest, Manifest]:
    """A pod that failed, and one that failed after it."""
    words = {"reason": "CommandFailed", "message": "exited with code 3", "tail": "KeyError: 'x'"}
    first = failed_pod(churn, "churn-0-aaaaa", 3, **words)
    second = failed_pod(churn, f"churn-{node}-bbbbb", 4, **words | {"message": "exited with code 4", "tail": "no more"})
    second["metadata"]["labels"][pods.INDEX] = node
    second["metadata"]["creationTimestamp"] = "2030-01-01T11:40:00Z"
    return first, second


def test_the_words_of_the_cause_are_the_message_and_have_a_remedy():
    """The trainer knows the cause behind a stack that fills the tail; the hint says what the platform can do."""
    churn = training_job(backoffLimit=0)
    words = {"reason": "CommandFailed", "message": "command exited with code 1", "tail": "  [bt] (8) a.so [0x7f]"}
    broken = failed_pod(churn, "churn-0-aaaaa", 1, **words, words="URLError: <urlopen error timed out>")
    failure = plan(churn, seen(job(churn, "Failed", "BackoffLimitExceeded", failed=1), broken), NOW).status["failure"]

    assert failure["message"] == "command exited with code 1: URLError: <urlopen error timed out>"
    assert failure["hint"].startswith("training pods reach the object storage alone, unless the chart's")
    assert "ultramarine -n team-a logs churn" in failure["hint"]


@pytest.mark.parametrize(("nodes", "reported"), [(1, 1), (2, 0)])
def test_a_failed_job_tells_what_ended_it(nodes, reported):
    """The verdict is that of the last attempt; of several nodes that of the first, for others fail for its sake."""
    churn = training_job(backoffLimit=1, nodes=nodes, framework="none")
    both = two_failures(churn, str(nodes - 1))
    got = plan(churn, seen(job(churn, "Failed", "BackoffLimitExceeded", failed=2), *both), NOW)

    assert condition(got, "Failed")["reason"] == got.status["failure"]["reason"]
    assert got.status["failure"]["pod"] == got.status["pod"] == both[reported]["metadata"]["name"]
    assert got.status["failure"]["exitCode"] == 3 + reported
    assert got.status["failure"]["tail"] == ("KeyError: 'x'", "no more")[reported]


@pytest.mark.parametrize("ended", ["BackoffLimitExceeded", "PodFailurePolicy"])
def test_the_condition_and_the_failure_have_one_reason(ended):
    """Both say what happened to the command, and not which rule of the Job counted it."""
    churn = training_job(backoffLimit=0)
    killed = pod(churn, phase="Failed", **ended_container(137, "OOMKilled"))
    got = plan(churn, seen(job(churn, "Failed", ended, failed=1), killed), NOW)
    assert condition(got, "Failed")["reason"] == condition(got, "Succeeded")["reason"] == "OOMKilled"
    assert got.status["failure"]["reason"] == "OOMKilled"
    assert [event.reason for event in got.events] == ["OOMKilled"]


def test_a_reason_that_is_too_long_is_cut_alike():
    """A command can write its pod's last words itself, and the API server refuses a longer reason."""
    churn = training_job()
    failed = failed_pod(churn, "churn-0-aaaaa", 1, reason="R" * 3000, message="no")
    got = plan(churn, seen(job(churn, "Failed", "BackoffLimitExceeded", failed=1), failed), NOW)
    assert condition(got, "Failed")["reason"] == got.status["failure"]["reason"] == "R" * 256


def test_while_it_is_tried_again_the_last_failure_is_told():
    """Its last lines are in the status before the next attempt, and while that runs; a success takes them away."""
    churn = training_job()
    first, second = two_failures(churn)
    for number, there in enumerate(((first,), (first, second))):
        got = plan(churn, seen(job(churn, failed=number + 1), *there), NOW)
        assert condition(got, "Running")["reason"] == "Retrying"
        assert got.status["failure"]["tail"] == ("KeyError: 'x'", "no more")[number]
    starting = plan(churn, seen(job(churn, active=1, failed=1), first, pod(churn, "churn-0-ccccc")), NOW)
    running = plan(churn, seen(job(churn, active=1, failed=1), first, pod(churn, "churn-0-ccccc", "Running")), NOW)
    assert starting.status["failure"] == running.status["failure"]
    assert running.status["failure"]["pod"] == "churn-0-aaaaa"

    again = training_job(running.status)
    done = plan(again, seen(job(again, "Complete", failed=1), first, succeeded_pod(again, name="churn-0-ccccc")), NOW)
    assert "failure" not in done.status


def test_the_same_failure_twice_is_the_reason():
    """The message explains that more attempts were pointless, shows the line, and names the way to allow more."""
    churn = training_job()
    first = failed_pod(churn, "churn-0-aaaaa", 1, reason="CommandFailed", message="exited with code 1")
    words = "two attempts in a row failed at once and alike, with exit code 1: KeyError: 'x'"
    second = failed_pod(churn, "churn-0-bbbbb", 203, reason="SameFailureTwice", message=words, exit_code=1)
    second["metadata"]["creationTimestamp"] = "2030-01-01T11:40:00Z"
    got = plan(churn, seen(job(churn, "Failed", "PodFailurePolicy", failed=2), first, second), NOW)

    assert condition(got, "Failed")["reason"] == got.status["failure"]["reason"] == "SameFailureTwice"
    assert condition(got, "Failed")["message"].startswith(words)
    assert got.status["failure"]["exitCode"] == 1
    assert (
        "add a rule with action Count for the exit code to spec.podFailurePolicy" in condition(got, "Failed")["message"]
    )


def test_the_trainer_knows_which_exit_codes_are_worth_more_attempts():
    """The first rule that fits an exit code says so, as Kubernetes reads them."""
    policy = [
        {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [2]}},
        {"action": "Count", "onExitCodes": {"operator": "In", "values": [1, 2]}},
    ]
    for more, codes in (
        ([], (1,)),
        ([{"action": "Ignore", "onExitCodes": {"operator": "NotIn", "values": [2, 7]}}], 253),
    ):
        churn = training_job(podFailurePolicy={"rules": [*policy, *more]})
        retried = context(churn, PLATFORM).worth_retrying
        assert (
            retried == codes
            if isinstance(codes, tuple)
            else (len(retried), 2 in retried, 7 in retried) == (codes, False, False)
        )


def test_the_log_of_what_failed_is_named_by_a_command_that_finds_it():
    """A Job's pod stays as it ended; a container that starts anew in its pod has the log of the one before."""
    churn = training_job(backoffLimit=0)
    broken = failed_pod(churn, "churn-0-aaaaa", 3, reason="CommandFailed", message="exited with code 3")
    got = plan(churn, seen(job(churn, "Failed", "BackoffLimitExceeded", failed=1), broken), NOW)
    assert got.status["failure"]["hint"] == (
        "read its last lines in status.failure.tail, or the whole with ultramarine -n team-a logs churn"
    )

    server = pod(churn, "churn-blue-abcde", "Running", **ended_container(1, name="server"))
    server["spec"]["restartPolicy"] = "Always"
    wording = pods.crashing(server)
    assert wording
    assert wording.hint == "see kubectl -n team-a logs churn-blue-abcde -c server --previous"


@pytest.mark.parametrize(
    ("reason", "message", "hint"),
    [
        ("CommandNotFound", "command 'run.sh' is not executable; start it with `sh`", "start it with `sh`"),
        ("BucketNotFound", "bucket b does not exist; create it", "create the bucket or correct the uri"),
        ("Unreachable", "the storage does not answer ({})", "check that the object storage is up"),
    ],
)
def test_a_sentence_has_one_remedy(reason, message, hint):
    """The trainer's own remedy becomes the hint, unless the operator has a better one."""
    failed = failed_pod(training_job(), "churn-0-aaaaa", 203, reason=reason, message=message)
    assert pods.verdict(failed).sentence == f"{message.partition('; ')[0]}; {hint}"


def test_out_of_memory_says_the_limit():
    """The kubelet's OOMKilled wins over what the container could still say."""
    churn = training_job()
    killed = pod(churn, phase="Failed", **ended_container(137, "OOMKilled"))
    killed["spec"]["containers"] = [{"name": "trainer", "resources": {"limits": {"memory": "64Mi"}}}]
    got = plan(churn, seen(job(churn, "Failed", "BackoffLimitExceeded", failed=1), killed), NOW)

    assert got.status["failure"]["reason"] == "OOMKilled"
    assert "64Mi" in got.status["failure"]["message"]
    assert "limits.memory" in got.status["failure"]["hint"]


def test_the_deadline_is_its_own_reason():
    """A job that runs into activeDeadlineSeconds says so, though its pod is gone."""
    churn = training_job(activeDeadlineSeconds=5)
    got = plan(churn, seen(job(churn, "Failed", "DeadlineExceeded")), NOW)

    assert got.status["failure"]["reason"] == "DeadlineExceeded"
    assert "activeDeadlineSeconds=5" in got.status["failure"]["message"]


def ended_status(**more):
    """The status of a job that succeeded at 11:59:00."""
    done = {"type": "Succeeded", "status": "True", "reason": "Finished", "message": "", "lastTransitionTime": "x"}
    return {"conditions": [done], "completionTime": "2030-01-01T11:59:00Z", "observedGeneration": 1, **more}


def test_a_finished_job_is_not_judged_again():
    """Losing its children after the end changes nothing, and makes nothing."""
    status = ended_status()
    got = plan(training_job(status), seen(), NOW)

    assert got.status == status
    assert (got.apply, got.create, got.after) == ((), (), None)


def test_time_to_live_deletes_the_very_object_that_was_seen():
    """A finished job waits for its TTL, then deletes itself with its uid and resourceVersion as preconditions."""
    early = plan(training_job(ended_status(), ttlSecondsAfterFinished=90), seen(), NOW)
    assert (early.delete, early.after) == ((), timedelta(seconds=30))

    late = plan(training_job(ended_status(), ttlSecondsAfterFinished=60), seen(), NOW)
    (ref,) = late.delete
    assert (ref.uid, ref.resource_version) == ("TrainingJob-churn-uid", "10")


def test_children_of_an_earlier_job_of_this_name_are_not_ours():
    """A Job whose owner has another uid says nothing about this TrainingJob."""
    churn = training_job()
    stale = job(churn, "Complete", succeeded=1)
    stale["metadata"]["ownerReferences"][0]["uid"] = "an older uid"
    got = plan(churn, seen(stale), NOW)

    assert got.status["state"] == "Pending"
    assert kinds_of(got.apply) == ["Job/churn"]


@pytest.mark.attack(
    "author/long-words",
    asset="a status",
    threat="words without end from a program make it unwritable",
    control="cut to the schema's limits",
)
def test_words_without_end_still_fit_the_status():
    """A verdict or a metric's name that is too long is cut: the API server would refuse the whole status."""
    churn = training_job()
    broken = failed_pod(churn, "churn-0-aaaaa", 3, reason="CommandFailed", message="x" * 3900, tail="y" * 400)
    got = plan(churn, seen(job(churn, "Failed", "BackoffLimitExceeded", failed=1), broken), NOW)
    assert len(got.status["failure"]["message"]) <= 4096
    assert len(condition(got, "Failed")["message"]) <= 2000
    assert score({"a" * 60: 1.0, "b": 2.0}) == "a" * 60 + "=1"
    assert score({"c" * 63: 1.23}) == ""


def test_own_metrics_come_before_those_of_autolog():
    """The column has room for a few metrics; a name that does not fit hides no others."""
    assert score({"c" * 63: 1.23, "b": 2.0}) == "b=2"
    automatic = {f"training_{name}_score": 1.0 for name in ("accuracy", "f1", "precision", "roc_auc")}
    assert score({**automatic, "val_auc": 0.9}) == "val_auc=0.9 training_accuracy_score=1 training_f1_score=1"


def test_an_eviction_is_not_the_cause():
    """A pod that Kubernetes took away does not hide the failure of the command that came after."""
    churn = training_job()
    evicted = pod(churn, "churn-0-aaaaa", "Failed", reason="Evicted")
    evicted["status"]["conditions"] = [{"type": "DisruptionTarget", "status": "True"}]
    broken = failed_pod(churn, "churn-0-bbbbb", 3, reason="CommandFailed", message="exited with code 3")
    got = plan(churn, seen(job(churn, "Failed", "BackoffLimitExceeded", failed=1), evicted, broken), NOW)
    assert got.status["failure"]["pod"] == "churn-0-bbbbb"


def test_the_last_words_of_a_pod_are_waited_for():
    """A Job that has just failed while its pod still seems to run is not judged yet, but is a little later."""
    churn = training_job()
    failed = job(churn, "Failed", "BackoffLimitExceeded", failed=1)
    failed["status"]["conditions"][0]["lastTransitionTime"] = "2030-01-01T11:59:59Z"
    early = plan(churn, seen(failed, pod(churn)), NOW)
    assert condition(early, "Failed") == {}
    assert early.after is not None

    late = plan(churn, seen(failed, pod(churn)), NOW + timedelta(minutes=1))
    assert condition(late, "Failed")["status"] == "True"


def test_a_job_cleaned_away_when_it_was_done_is_not_run_again():
    """Its Job deleted before the operator saw the end: the storage's record says that it is done."""
    churn = training_job({"startTime": "2030-01-01T11:30:05Z"}, outputs={"report": {}})
    (question,) = questions(churn, seen())
    record = TerminationRecord(outputs={"report": model_output()})
    got = plan(churn, seen(answers={question: record.to_json()}), NOW)
    assert got.status["state"] == "Succeeded"

    lost = plan(churn, seen(answers={question: StorageError("not there", "ObjectNotFound")}), NOW)
    assert kinds_of(lost.apply) == ["Job/churn"]


@pytest.mark.parametrize("reason", ["Unreachable", "Unavailable", "AccessDenied", "BucketNotFound"])
def test_a_lost_job_is_not_trained_again_while_the_storage_cannot_be_asked(reason):
    """Its Job is gone, and whether it was done only the storage knows: that is waited for, and said."""
    churn = training_job(status={"startTime": "2030-01-01T11:30:00Z"})
    (question,) = questions(churn, seen())
    got = plan(churn, seen(answers={question: StorageError("no answer", reason)}), NOW)

    assert got.apply == ()
    assert got.after == timedelta(seconds=15)
    assert condition(got, "Running")["message"].endswith("the storage is asked for its result: no answer")


@pytest.mark.parametrize(
    ("counts", "reason"),
    [
        ({}, "PodStarting"),
        ({"startTime": "2030-01-01T11:59:45Z"}, "PodStarting"),
        ({"startTime": "2030-01-01T11:59:00Z", "active": 1}, "PodStarting"),
        ({"startTime": "2030-01-01T11:59:00Z"}, "NoPod"),
    ],
)
def test_a_job_that_gets_no_pod_says_so(counts, reason):
    """A quota refuses pods by Events only: half a minute after its controller has begun, the job says where to look."""
    churn = training_job()
    got = plan(churn, seen(job(churn, **counts)), NOW)

    assert condition(got, "Running")["reason"] == reason
    if reason == "NoPod":
        assert "kubectl -n team-a describe job churn says why" in condition(got, "Running")["message"]


def test_the_time_between_two_attempts_is_no_refusal():
    """Kubernetes waits before the next pod, ten minutes at most: that is said, and is not what a deadline is for."""
    churn = training_job(pendingDeadlineSeconds=60)
    since = {"startTime": "2030-01-01T11:50:30Z", "failed": 2}
    got = plan(churn, seen(job(churn, **since)), NOW)
    assert (got.status["state"], condition(got, "Running")["reason"]) == ("Pending", "Retrying")
    assert "2 pods of Job churn failed or went, and Kubernetes waits" in condition(got, "Running")["message"]
    assert got.after == timedelta(seconds=90)

    late = plan(churn, seen(job(churn, **since)), NOW + timedelta(seconds=90))
    assert condition(late, "Failed")["reason"] == "NoPod"


def test_a_pod_that_ran_until_now_is_missed_from_now_on():
    """Since when a Job has no pod is not when it began."""
    ran = {"conditions": [{"type": "Running", "status": "True", "lastTransitionTime": "2030-01-01T11:00:00Z"}]}
    churn = training_job(ran, pendingDeadlineSeconds=60)
    got = plan(churn, seen(job(churn, startTime="2030-01-01T11:00:00Z")), NOW)

    assert condition(got, "Running")["reason"] == "PodStarting"
    assert got.after == timedelta(seconds=30)


def test_a_job_gets_its_labels_back_and_keeps_its_pods():
    """A Job whose label somebody changed is labelled anew, with the template that it has, even an older one."""
    churn = training_job()
    live = job(churn)
    live["spec"]["template"]["spec"]["containers"][0]["image"] = "ultramarine/trainer:0"
    live["metadata"]["labels"]["ultramarine.dev/name"] = "other"
    (again,) = plan(churn, seen(live), NOW).apply

    assert again["metadata"]["labels"]["ultramarine.dev/name"] == "churn"
    assert again["spec"]["template"] == live["spec"]["template"]
