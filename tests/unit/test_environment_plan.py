"""An Environment: its build, what its pods cannot do, its failures, and its end."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from builders import DIGEST, NOW, PLATFORM, child, condition, ended_container, kinds_of, ours, seen
from ultramarine_contract import common as contract
from ultramarine_contract.environment_records import BuildRecord, BuildTask
from ultramarine_contract.errors import InvalidSpec, StorageError
from ultramarine_contract.training_records import TerminationRecord
from ultramarine_operator.kinds.environment.manifests import build_job, build_task, delete_job, prefix
from ultramarine_operator.kinds.environment.plan import plan, questions
from ultramarine_operator.kinds.environment.testing import INLINE, built, environment
from ultramarine_operator.shared.conditions import timestamp
from ultramarine_operator.shared.environments import LABEL_SHARED, remedy_of_failure
from ultramarine_operator.shared.plan import Obj
from ultramarine_operator.shared.questions import ReadText

PLACE = f"{prefix(environment(), PLATFORM)}{'e' * 16}/"
RECORD = BuildRecord(
    f"{PLACE}environment.tar.zst", DIGEST, 210 * 2**20, 2**30, 12, f"{PLACE}requirements.txt", "3.11.2", 61.4
)
RESULT = ReadText(prefix(environment(), PLATFORM) + contract.RESULT_NAME)
TOOLS = {"environment": {"name": "tools"}}
SHARED = {LABEL_SHARED: "true"}
LONG_AGO = timestamp(NOW - timedelta(days=15))


def test_builds_get_the_authorities_of_the_index_in_every_namespace():
    """A ConfigMap with what the operator has is applied before the Job that mounts it, and goes after the build."""
    builds = replace(PLATFORM.environments, authorities="PEM")
    before = seen(platform=replace(PLATFORM, environments=builds))
    config_map, job = plan(environment(), before, NOW).apply
    name = config_map["metadata"]["name"]
    pod = job["spec"]["template"]["spec"]
    [build] = [item for item in pod["initContainers"] if item["name"] == "build"]

    assert (config_map["kind"], config_map["data"]) == ("ConfigMap", {"ca.crt": "PEM"})
    assert {"name": "index-ca", "configMap": {"name": name, "optional": True}} in pod["volumes"]
    assert {"name": "index-ca", "mountPath": "/etc/ultramarine/ca", "readOnly": True} in build["volumeMounts"]
    assert {"name": "SSL_CERT_FILE", "value": "/etc/ultramarine/ca/ca.crt"} in build["env"]
    live = child("ConfigMap", name, environment())
    while_building = plan(begun(), replace(before, children=(live, job_of(begun()))), NOW)
    after = plan(environment(INLINE, built()), replace(before, children=(live,)), NOW)
    assert while_building.delete == ()
    assert [ref.name for ref in after.delete] == [name]


def begun(attempts=1, reason="Building", **more):
    """It while an attempt is under way."""
    ready = {"type": "Ready", "status": "False", "reason": reason, "lastTransitionTime": timestamp(NOW)}
    return environment(status={"attempts": attempts, "conditions": [ready], **more})


def job_of(of, end="", attempt=1, ago=timedelta(), reason="BackoffLimitExceeded"):
    """The Job of an attempt, which may be `Complete` or `Failed` for a while."""
    made = child("Job", f"tools-build-{attempt}", of, {"backoffLimit": 0}, {"startTime": timestamp(NOW)})
    if end:
        over = {"type": end, "status": "True", "reason": reason, "lastTransitionTime": timestamp(NOW - ago)}
        made["status"]["conditions"] = [over]
    return made


def pod_of(of, phase, *containers, attempt=1):
    """The pod of an attempt."""
    made = child("Pod", f"tools-build-{attempt}-abcde", of, {}, {"phase": phase, "containerStatuses": list(containers)})
    made["metadata"]["ownerReferences"] = [{"uid": f"Job-tools-build-{attempt}-uid", "controller": True}]
    return made


def ended(code, message, name="build"):
    """The status of a container that has ended."""
    return ended_container(code, "Error" if code else "Completed", message, name)["containerStatuses"][0]


def failed_pod(of, code, record):
    """A pod whose build failed with that record."""
    return pod_of(of, "Failed", ended(code, record.to_json().decode()))


def test_a_new_environment_gets_its_first_build():
    """The Job is made at once, and the status says which attempt it is."""
    got = plan(environment(), seen(), NOW)

    assert kinds_of(got.apply) == ["Job/tools-build-1"]
    assert (got.status["state"], got.status["attempts"]) == ("Building", 1)
    assert condition(got, "Reconciling")["status"] == "True"
    assert questions(environment(), seen()) == ()


@pytest.mark.attack(
    "author/setup-code",
    asset="storage keys and other pods",
    threat="the setup code of a package runs while an environment is built",
    control="the container that installs packages has no storage keys and no token of the API; the next one "
    "stores what it left. Its pod accepts no connection. The rules for package indexes open private addresses only if "
    "an index URL has one, or `environments.egress` lists it",
)
def test_the_container_that_runs_code_of_packages_has_no_keys():
    """Credentials of the index are in the building container alone, those of the storage in the storing one alone."""
    spec = build_job(environment({**INLINE, "image": "base:1"}), 1, PLATFORM)["spec"]["template"]["spec"]
    tools, build = spec["initContainers"]
    [store] = spec["containers"]

    assert [item["image"] for item in (tools, build, store)] == [PLATFORM.trainer_image, "base:1"] + [
        PLATFORM.trainer_image
    ]
    secrets = [[source["secretRef"]["name"] for source in item.get("envFrom", [])] for item in (tools, build, store)]
    assert secrets == [[], ["ultramarine-index"], ["ultramarine-storage"]]
    assert [mount["name"] for mount in store["volumeMounts"]] == ["environment", "tmp"]
    assert {item["name"]: item["value"] for item in build["env"]}["UV_DEFAULT_INDEX"] == PLATFORM.environments.index_url
    assert spec["automountServiceAccountToken"] is False


def test_requirements_reach_the_builder():
    """Inline lines and those of an inline source are in the task; a file of another source is named there."""
    lines = {"inline": {"a.txt": "# ours\nlightgbm\n\nxgboost  \n"}}
    tasks = [
        {"requirements": ["lightgbm ; python_version > '3.9'"]},
        {"requirementsFile": {"source": lines, "path": "a.txt"}},
        {"requirementsFile": {"source": {"uri": "s3://lake/code.tar"}, "path": "b/a.txt"}},
    ]
    read = [
        BuildTask.from_json(
            build_job(environment({"python": task}), 1, PLATFORM)["spec"]["template"]["spec"]["initContainers"][-1][
                "env"
            ][0]["value"]
        )
        for task in tasks
    ]

    assert [task.requirements for task in read] == [
        ("lightgbm ; python_version > '3.9'",),
        ("lightgbm", "xgboost"),
        (),
    ]
    assert [task.path for task in read] == ["", "", "b/a.txt"]
    assert {task.max_bytes for task in read} == {10 * 2**30}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("# ours\nlightgbm\ngit+https://example.org/x.git\n", "line 3 of a.txt in source.inline must be one line with"),
        ("numpy\n-r b.txt\n", "line 2 of a.txt in source.inline must be one line with"),
        ("numpy \\\n  >=2 \\\n\n./wheels/a.whl", "line 4 of a.txt in source.inline must be one line with"),
        ("# nothing\n", "a.txt in source.inline names no package; name at least one"),
    ],
)
def test_a_line_that_no_build_takes_is_refused_before_a_pod_starts(text, words):
    """The engine makes the condition Accepted=False InvalidSpec of what the plan raises."""
    file = {"source": {"inline": {"a.txt": text, "b.txt": "numpy"}}, "path": "a.txt"}
    with pytest.raises(InvalidSpec) as caught:
        plan(environment({"python": {"requirementsFile": file}}), seen(), NOW)

    assert caught.value.message.startswith(words)


def test_a_continued_line_is_one():
    """As pip-compile writes hashes."""
    file = {"source": {"inline": {"a.txt": "numpy==2.0 \\\n    --hash=sha256:ab\n# end\nscipy\\"}}, "path": "a.txt"}
    assert build_task(environment({"python": {"requirementsFile": file}}), PLATFORM).requirements == (
        "numpy==2.0     --hash=sha256:ab",
        "scipy",
    )


@pytest.mark.parametrize(
    ("container", "words"), [("source", "source is being fetched"), ("build", "installed"), ("store", "stored")]
)
def test_the_message_says_what_the_pod_does(container, words):
    """Progress follows from the container that runs."""
    of = begun()
    running = pod_of(of, "Running", {"name": container, "state": {"running": {}}})

    assert words in condition(plan(of, seen(job_of(of), running), NOW), "Ready")["message"]


def test_what_its_pod_waits_for_is_told():
    """A pod that cannot start says why."""
    of = begun()
    waiting = {"name": "build", "image": "x", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no"}}}
    got = plan(of, seen(job_of(of), pod_of(of, "Pending", waiting)), NOW)

    assert condition(got, "Ready")["reason"] == "ImagePullBackOff"
    assert [event.type for event in got.events] == ["Warning"]


def test_a_result_makes_it_ready():
    """The pod's last words name the archive; its Job may go from then on."""
    of = begun()
    got = plan(
        of, seen(job_of(of, "Complete"), pod_of(of, "Succeeded", ended(0, RECORD.to_json().decode(), "store"))), NOW
    )

    assert condition(got, "Ready")["status"] == "True"
    assert {name: got.status[name] for name in ("state", "uri", "digest", "size", "pythonVersion", "buildSeconds")} == {
        "state": "Ready",
        "uri": RECORD.uri,
        "digest": DIGEST,
        "size": "210Mi",
        "pythonVersion": "3.11.2",
        "buildSeconds": 61,
    }
    assert got.status["lock"] == {"uri": RECORD.lock, "packages": 12}
    later = environment(status=got.status)
    assert plan(later, seen(), NOW + timedelta(days=99)).status == got.status
    assert questions(later, seen()) == ()


def test_a_lost_pod_leaves_its_result_in_the_storage():
    """The storage is asked for what no pod says, also once the Job is gone; without a result the Job comes again."""
    of = begun()
    answer = {RESULT: RECORD.to_json().decode()}

    assert questions(of, seen()) == (RESULT,)
    assert plan(of, seen(answers=answer), NOW).status["state"] == "Ready"
    gone = seen(answers={RESULT: StorageError("none", "ObjectNotFound")})
    assert kinds_of(plan(of, gone, NOW).apply) == ["Job/tools-build-1"]


def test_a_result_elsewhere_is_refused():
    """Any writer of the storage could say that the archive lies in another namespace."""
    of = begun()
    foreign = BuildRecord("s3://lake/team-b/x.tar.zst", DIGEST, lock=RECORD.lock)
    got = plan(of, seen(answers={RESULT: foreign.to_json().decode()}), NOW)

    assert (got.status["state"], "uri" in got.status) == ("Failed", False)


def test_a_final_failure_has_the_words_of_the_resolver():
    """No further attempt follows, and the failure stays when the Job is gone."""
    of = begun()
    record = BuildRecord(reason="BuildFailed", message="no version of lightgbmm exists; correct its name")
    got = plan(of, seen(job_of(of, "Failed"), failed_pod(of, contract.EXIT_DO_NOT_RETRY, record)), NOW)

    assert got.status["state"] == "Failed"
    assert condition(got, "Failed")["message"] == f"{record.message}; {remedy_of_failure(of.manifest)}"
    assert condition(got, "Stalled")["status"] == "True"
    assert (got.apply, got.delete, got.after) == ((), (), None)
    again = plan(environment(status=got.status), seen(), NOW)
    assert (again.status, again.apply) == (got.status, ())


def test_a_transient_failure_is_retried_after_a_pause():
    """The pause is longer each time; then the old Job goes, and the next number follows."""
    record = BuildRecord(reason="BuildFailed", message="the index does not answer")
    of = begun(attempts=3)
    pod = failed_pod(of, contract.EXIT_TRY_AGAIN, record)
    pod["metadata"]["ownerReferences"][0]["uid"] = "Job-tools-build-3-uid"
    early = plan(of, seen(job_of(of, "Failed", attempt=3), pod), NOW)
    late = plan(of, seen(job_of(of, "Failed", attempt=3, ago=timedelta(minutes=4)), pod), NOW)

    assert (early.status["state"], early.after, early.delete) == ("Building", timedelta(minutes=4), ())
    assert "the index does not answer" in condition(early, "Ready")["message"]
    assert ([ref.name for ref in late.delete], late.status["attempts"]) == (["tools-build-3"], 4)
    absent = seen(answers={RESULT: StorageError("none", "ObjectNotFound")})
    assert kinds_of(plan(environment(status=late.status), absent, NOW).apply) == ["Job/tools-build-4"]


@pytest.mark.parametrize(
    ("python", "key"),
    [
        ({"requirementsFrom": {"configMap": {"name": "ours", "key": "a.txt"}}}, "a.txt"),
        ({"requirementsFile": {"source": {"configMap": {"name": "ours"}}, "path": "b.txt"}}, "b.txt"),
    ],
)
def test_a_missing_config_map_of_requirements_is_named(python, key):
    """The builder sees an empty folder only; the object that the author forgot is in the condition."""
    of = begun()
    of = environment({"python": python}, of.status)
    record = BuildRecord(reason="RequirementsMissing", message="requirements.txt not found in /mnt/requirements")
    got = plan(of, seen(job_of(of, "Failed"), failed_pod(of, contract.EXIT_TRY_AGAIN, record)), NOW)

    missing = f"ConfigMap ours in team-a does not exist or has no key {key}; create it with this key"
    assert missing in condition(got, "Ready")["message"]
    assert "/mnt/requirements" not in condition(got, "Ready")["message"]


def test_a_trouble_of_the_node_is_retried():
    """The pod was refused before any container ran."""
    of = begun()
    pod = pod_of(of, "Failed")
    pod["status"] |= {"reason": "PodFailed", "message": "the node was shutting down"}
    got = plan(of, seen(job_of(of, "Failed"), pod), NOW)

    assert (got.status["state"], got.after) == ("Building", timedelta(minutes=1))


def test_a_source_that_cannot_be_fetched_says_why():
    """The record of the container before the build counts as well."""
    of = begun()
    record = TerminationRecord(reason="GitRefNotFound", message="no branch main2; correct ref")
    pod = pod_of(of, "Failed", ended(contract.EXIT_DO_NOT_RETRY, record.to_json(), "source"))
    got = plan(of, seen(job_of(of, "Failed"), pod), NOW)

    assert condition(got, "Failed")["reason"] == "GitRefNotFound"
    assert "no branch main2" in condition(got, "Failed")["message"]


@pytest.mark.parametrize(("former", "state"), [("Building", "Failed"), ("Unschedulable", "Building")])
def test_a_missed_deadline_is_final_if_the_pod_ran(former, state):
    """A build that hangs would hang again; a pod without a node has tried nothing."""
    of = begun(reason=former)
    late = job_of(of, "Failed", reason="DeadlineExceeded", ago=timedelta(minutes=1))

    assert plan(of, seen(late), NOW).status["state"] == state


@pytest.mark.parametrize(
    ("spec", "labels", "end"),
    [({}, {}, "never"), ({}, SHARED, "now"), ({"ttlSecondsAfterUnused": 60}, {}, "now")],
)
def test_an_unused_environment_goes(spec, labels, end):
    """A shared one goes after the chart's time and any other by its own; without it, it stays."""
    of = environment({**INLINE, **spec}, built(unusedSince=LONG_AGO), labels=labels)
    got = plan(of, seen(), NOW)

    assert got.status["state"] == ("Deleting" if end == "now" else "Ready")
    assert got.apply == got.delete == ()


def test_the_time_without_use_begins_after_the_build():
    """A build may take longer than ttlSecondsAfterUnused."""
    of = environment({**INLINE, "ttlSecondsAfterUnused": 60}, begun().status)
    ended_pod = pod_of(of, "Succeeded", ended(0, RECORD.to_json().decode(), "store"))
    building, ready = (plan(of, there, NOW) for there in (seen(job_of(of)), seen(job_of(of, "Complete"), ended_pod)))

    assert "unusedSince" not in building.status
    assert (ready.status["unusedSince"], ready.after) == (timestamp(NOW), timedelta(seconds=60))


def test_its_archive_goes_before_the_object():
    """Objects first see that it goes; then a Job deletes the archive; then the object goes."""
    of = environment(INLINE, built(unusedSince=LONG_AGO), labels=SHARED)
    first = plan(of, seen(), NOW)
    of = environment(INLINE, first.status, labels=SHARED)
    second = plan(of, seen(), NOW)
    of = environment(INLINE, second.status, labels=SHARED)
    job = child("Job", "tools-delete", of, {}, {})
    job["spec"] = delete_job(of, PLATFORM)["spec"]
    third = plan(of, seen(job), NOW)
    job["status"] = {"conditions": [{"type": "Complete", "status": "True", "lastTransitionTime": timestamp(NOW)}]}
    fourth = plan(of, seen(job), NOW)

    assert (first.after, kinds_of(first.apply)) == (timedelta(), [])
    assert kinds_of(second.apply) == ["Job/tools-delete"]
    assert (third.apply, third.delete) == ((), ())
    assert [(ref.resource.kind, ref.name) for ref in fourth.delete] == [("Environment", "tools")]


def test_a_deletion_that_failed_is_tried_again():
    """The Job stays for its log, and another one follows."""
    status = built(unusedSince=LONG_AGO)
    status["conditions"][0] |= {"status": "False", "reason": "Deleting"}
    of = environment(INLINE, status, labels=SHARED)
    over = {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}
    job = child("Job", "tools-delete", of, {}, {"conditions": [{**over, "lastTransitionTime": timestamp(NOW)}]})
    early = plan(of, seen(job), NOW)
    late = plan(of, seen(job), NOW + timedelta(minutes=6))

    assert (condition(early, "Ready")["reason"], early.after) == ("DeletionFailed", timedelta(minutes=5))
    assert [ref.name for ref in late.delete] == ["tools-delete"]


def test_an_environment_that_is_used_again_stays():
    """Nothing was deleted yet; once a Job has begun, there is no way back."""
    status = built(unusedSince=LONG_AGO)
    status["conditions"][0] |= {"status": "False", "reason": "Unused"}
    user = (ours("TrainingJob", "churn", TOOLS),)
    of = environment(INLINE, status, labels=SHARED)
    kept = plan(of, seen(related=user), NOW)
    gone = plan(of, seen(child("Job", "tools-delete", of, {}, {}), related=user), NOW)

    assert (kept.status["state"], "unusedSince" in kept.status) == ("Ready", False)
    assert gone.status["state"] == "Deleting"


@pytest.mark.parametrize(
    ("user", "is_used"),
    [
        (ours("TrainingJob", "churn", TOOLS, {"state": "Running"}), True),
        (
            ours("TrainingJob", "churn", TOOLS, {"conditions": [{"type": "Succeeded", "status": "True"}]}),
            False,
        ),
        (ours("OnlineEndpoint", "shop", {"deployments": [{"name": "blue", **TOOLS}]}), True),
        (ours("OnlineEndpoint", "shop", {"deployments": [{"name": "blue", "pool": {}}]}), False),
    ],
)
def test_a_run_that_is_over_does_not_use_it(user, is_used):
    """The time without use begins with the end of the last run. The endpoint of a pool sees it and does not use it."""
    got = plan(environment(INLINE, built(), labels=SHARED), seen(related=(user,)), NOW)

    assert ("unusedSince" in got.status) != is_used


def test_a_failed_shared_environment_goes_soon():
    """Otherwise the same requirements would fail at once, although the cause may be gone."""
    failed = {"type": "Failed", "status": "True", "reason": "BuildFailed", "lastTransitionTime": timestamp(NOW)}
    status = {"attempts": 1, "conditions": [failed], "unusedSince": timestamp(NOW - timedelta(hours=2))}
    got = plan(Obj(environment(INLINE, status, labels=SHARED).manifest, environment().spec), seen(), NOW)

    assert [ref.resource.kind for ref in got.delete] == ["Environment"]
