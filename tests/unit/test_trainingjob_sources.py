"""How code that is given in one of four ways gets to the trainer, and what is told of it."""

from __future__ import annotations

import pytest
from builders import DIGEST, NOW, ended_container, job, pod, seen, training_job
from ultramarine.kinds.trainingjob.plan import plan
from ultramarine.shared.training_records import SourceRecord, SourceTask, TerminationRecord, TrainingTask


@pytest.mark.parametrize(
    ("source", "task", "volume"),
    [
        ({"inline": {"a.py": ""}}, None, {"name": "churn-source"}),
        ({"configMap": {"name": "code"}}, {"config_map": "code"}, {"name": "code", "optional": True}),
        ({"uri": "s3://lake/code.tar.gz", "digest": DIGEST}, {"uri": "s3://lake/code.tar.gz", "digest": DIGEST}, None),
        (
            {"git": {"url": "https://example.com/churn.git", "ref": "v1", "path": "src"}},
            {"git_url": "https://example.com/churn.git", "git_ref": "v1", "git_path": "src"},
            None,
        ),
    ],
)
def test_each_source_gets_to_the_trainer(source, task, volume):
    """Inline code and a ConfigMap are mounted, an archive and a repository are the trainer's to fetch."""
    made = plan(training_job(source=source), seen(), NOW).apply[-1]["spec"]["template"]["spec"]
    env = {variable["name"]: variable.get("value") for variable in made["containers"][0]["env"]}
    given = TrainingTask.from_json(env["ULTRAMARINE_TASK"]).source

    assert given == (SourceTask(**task) if task else None)
    assert [v["configMap"] for v in made["volumes"] if v["name"] == "source"] == ([volume] if volume else [])


def test_what_the_trainer_says_of_its_source_is_kept():
    """Commit and digest of the code that ran are in the provenance of the finished job."""
    one = training_job(source={"git": {"url": "https://example.com/churn.git"}})
    record = TerminationRecord(source=SourceRecord(DIGEST, "3fa9" * 10))
    done = pod(one, phase="Succeeded", **ended_container(0, "Completed", record.to_json()))
    got = plan(one, seen(job(one, "Complete"), done), NOW)

    assert got.status["provenance"] == {"imageDigest": "sha256:feed", "sourceDigest": DIGEST, "gitCommit": "3fa9" * 10}


def test_a_task_that_asks_for_something_newer_is_refused_by_an_older_trainer():
    """What is not asked for is not in the task; what an image does not know, it must not leave out silently."""
    assert TrainingTask().to_json() == "{}"
    with pytest.raises(TypeError, match="teleport"):
        TrainingTask.from_json('{"teleport": {}}')
