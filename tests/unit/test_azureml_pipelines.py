"""Conversion of Azure ML pipelines, components, schedules, imports and datastores."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ultramarine.azureml import Compute, Conversion, convert
from ultramarine_contract.meta import Manifest
from unit.test_azureml import FILES, checked, losses, of_text, only, submitted


@pytest.fixture(scope="module")
def converted() -> Conversion:
    """The conversion of the files of pipelines and schedules."""
    return checked(convert([FILES / "steps", FILES / "timed"]))


def steps_of(conversion: Conversion, name: str) -> dict[str, Manifest]:
    """Steps of a run by name."""
    spec = only(conversion, "PipelineRun", name)["pipelineSpec"]
    return {step["name"]: step for step in (*spec["steps"], *spec.get("finally", []))}


def reasons(conversion: Conversion) -> dict[str, str]:
    """Refusals by file name."""
    return {Path(file.file).name: file.refusal for file in conversion.files if file.refusal}


def pipeline(**fields: Any) -> str:
    """A pipeline job as YAML."""
    return yaml.safe_dump({"type": "pipeline", **fields})


def test_the_steps_of_all_components_are_those_of_one_run(converted):
    """Steps come behind those that they refer to; the steps of a pipeline component have its name before their own."""
    spec = only(converted, "PipelineRun", "churn-steps")["pipelineSpec"]

    assert [step["name"] for step in spec["steps"]] == ["clean", "tune", "score-all-predict"]
    assert [step["name"] for step in spec["finally"]] == ["tidy"]
    assert spec["outputs"] == {"best": "$(steps.tune.outputs.model)"}
    assert spec["continueOnStepFailure"] is True


def test_literals_are_parameters_and_content_is_an_input(converted):
    """Parameters have types and values; booleans are texts, as Azure writes them into commands."""
    spec = only(converted, "PipelineRun", "churn-steps")["pipelineSpec"]
    clean = steps_of(converted, "churn-steps")["clean"]

    assert spec["parameters"] == {
        "rate": {"type": "number", "default": 0.5},
        "rounds": {"type": "integer", "default": 10},
        "note": {"type": "string", "default": "two words"},
        "balanced": {"type": "string", "default": "True"},
    }
    job = clean["trainingJob"]
    assert job["inputs"] == {"raw": {"uri": "s3://bucket/namespace/data/customers/customers.csv"}}
    assert job["parameters"] == {"balanced": "$(params.balanced)", "seed": 7}
    assert job["command"][:3] == ["python", "clean.py", "$(inputs.raw)/customers.csv"]
    assert "--limit" not in job["command"]


def test_a_component_may_be_in_a_file_or_named(converted):
    """Its code and conda file are found beside it, and it says if its results can be reused."""
    clean = steps_of(converted, "churn-steps")["clean"]

    assert clean["cache"] is False
    assert clean["trainingJob"]["environment"] == {"requirements": ["pandas==2.2.*", "inference-schema"]}
    uploads = {upload.uri: upload.source for upload in converted.uploads}
    source = uploads[clean["trainingJob"]["source"]["uri"]]
    assert Path(source) == (FILES / "steps/clean").relative_to(Path.cwd())


def test_a_sweep_step_searches_inputs_of_its_component(converted):
    """The searched input is not a parameter; the best trial's model gets the name of the pipeline's output."""
    sweep = steps_of(converted, "churn-steps")["tune"]["sweep"]

    trial = sweep["trialTemplate"]["spec"]
    assert trial["command"][3:] == ["$(inputs.table)/table", "$(params.rate)", "$(params.depth)", "$(outputs.model)"]
    assert trial["parameters"] == {"rate": "$(params.rate)"}
    assert trial["inputs"] == {"table": {"uri": "$(steps.clean.outputs.table)"}}
    assert sweep["registerBest"] == "churn-steps"


def test_a_text_around_expressions_is_kept(converted):
    """Several parameters in a text make a parameter of the step, which a shell splits as in Azure."""
    job = steps_of(converted, "churn-steps")["score-all-predict"]["trainingJob"]

    assert job["parameters"] == {"note": "$(params.note) of $(params.rounds) rounds"}
    assert job["command"][:2] == ["bash", "-c"]
    assert "--weights" not in job["command"][2]
    assert (job["nodes"], job["activeDeadlineSeconds"]) == (2, 60)


def test_compute_targets_of_steps_are_resolved(converted):
    """A target in an input is its value, and the default is named once."""
    lost = losses(converted, "pipeline.yml")
    assert "cpu-cluster names a compute target" in lost["settings.default_compute"]
    assert "gpu-cluster names a compute target" in lost["jobs.clean.compute"]
    assert "jobs.score_all.compute" not in lost


def test_the_default_target_is_that_of_steps_without_their_own(tmp_path):
    """The table of ultramarine.yaml gives such steps their node selector and resources."""
    step = {"command": "ls", "environment": {"image": "python"}}
    text = pipeline(
        settings={"default_compute": "azureml:cpu"}, jobs={"a": step, "b": {**step, "compute": "azureml:gpu"}}
    )
    (tmp_path / "run.yml").write_text(text)
    table = {"cpu": Compute({"nodeSelector": {"x": "cpu"}}), "gpu": Compute({"nodeSelector": {"x": "gpu"}})}
    steps = steps_of(checked(convert([tmp_path], computes=table)), "run")

    selectors = {name: step["trainingJob"]["podTemplate"]["nodeSelector"]["x"] for name, step in steps.items()}
    assert selectors == {"a": "cpu", "b": "gpu"}


def test_parts_are_counted_with_the_file_that_reads_them(converted):
    """Components and conda files became the objects of their pipeline."""
    objects = {Path(file.file).name: file.objects for file in converted.files}

    for name in ("clean.yml", "train.yml", "score.yml", "conda.yml"):
        assert objects[name] == ("PipelineRun/churn-steps",)


def test_a_component_alone_is_a_pipeline_of_one_step(converted):
    """Its inputs are parameters, of which those of content are URIs."""
    spec = only(converted, "Pipeline", "train")
    assert spec["parameters"] == {"rate": {"type": "number"}}

    alone = checked(convert([FILES / "steps/clean.yml"]))
    spec = only(alone, "Pipeline", "churn-clean")
    assert spec["parameters"]["raw"] == {"type": "uri"}
    assert spec["outputs"] == {"table": "$(steps.clean.outputs.table)"}
    (step,) = spec["steps"]
    assert "$AZURE_ML_INPUT_raw" in step["trainingJob"]["command"][2]
    assert step["trainingJob"]["inputs"] == {"raw": {"uri": "$(params.raw)"}}


def test_a_pipeline_without_values_is_no_run(tmp_path):
    """An input without a path becomes a parameter to set, and the file a Pipeline."""
    text = pipeline(
        inputs={"table": {"type": "uri_folder"}},
        jobs={"a": {"command": "ls ${{inputs.t}}", "inputs": {"t": "${{parent.inputs.table}}"}}},
    )
    conversion = of_text(tmp_path, text, "made.yml")

    assert only(conversion, "Pipeline", "made")["parameters"] == {"table": {"type": "uri"}}
    assert "a Pipeline is made and no run" in losses(conversion, "made.yml")["inputs"]


def test_early_pipelines_are_understood(tmp_path):
    """Expressions without `parent`, components inside steps, nested data and an environment for all steps."""
    text = pipeline(
        settings={"environment": {"conda_file": {"dependencies": ["numpy"]}}},
        inputs={"data": {"dataset": {"local_path": "."}}},
        jobs={
            "make-it": {
                "type": "component",
                "component": {"type": "command", "command": "run ${{inputs.x}} ${{outputs.y}}", "outputs": {"y": {}}},
                "inputs": {"x": "${{inputs.data}}"},
            },
            "use": {"command": "cat ${{inputs.z}}", "inputs": {"z": "${{jobs.make-it.outputs.y}}"}},
        },
    )
    steps = steps_of(of_text(tmp_path, text, "early.yml"), "early")

    assert steps["make-it"]["trainingJob"]["environment"] == {"requirements": ["numpy"]}
    assert steps["use"]["trainingJob"]["inputs"] == {"z": {"uri": "$(steps.make-it.outputs.y)"}}


@pytest.mark.parametrize(
    ("jobs", "words"),
    [
        ({}, "has no jobs"),
        ({"a": {"type": "spark"}}, "has a step a that does not convert: it is a Spark job .* Run Spark in the command"),
        ({"a": {"type": "automl"}}, "has a step a that does not convert: it is an automated ML job"),
        (
            {"a": {"component": "azureml:gone:1"}},
            "it names component gone, which no file defines. Convert its file too",
        ),
        (
            {"a": {"component": "azureml://registries/shared/components/split/versions/0.1"}},
            "split of a registry, whose file is not here. Write the output of `az ml component show "
            "--registry-name shared --name split --version 0.1` into split.yml beside this file",
        ),
        ({"a": {"component": "./gone.yml"}}, r"it names component .*gone.yml, which cannot be read"),
        ({"a": {"type": "pipeline", "jobs": {"b": {"type": "parallel"}}}}, "has a step b that does not convert"),
        ({"a": {"inputs": {"x": 1}}}, "has a step a that does not convert: it has no command"),
    ],
)
def test_a_step_without_a_counterpart_refuses_the_pipeline(tmp_path, jobs, words):
    """The reason names the step and says what to do; nothing of the pipeline is left."""
    (tmp_path / "run.yml").write_text(pipeline(jobs=jobs))
    conversion = convert([tmp_path / "run.yml"])

    assert conversion.manifests == []
    (reason,) = reasons(conversion).values()
    assert re.search(words, reason)


def test_expressions_without_a_counterpart_are_losses(tmp_path):
    """An undefined name, an unbound output and an unread input are named."""
    step = {
        "command": "run ${{inputs.x}} ${{inputs.y}}",
        "inputs": {"x": "${{parent.jobs.gone.outputs.a}}", "y": "${{name}}"},
    }
    conversion = of_text(tmp_path, pipeline(inputs={"b": 1}, outputs={"c": {}}, jobs={"a": step}), "run.yml")

    problems = " ".join(loss.problem for loss in conversion.losses)
    for words in (
        "jobs.gone.outputs.a is not defined, and becomes nothing",
        "${{name}} has an expression",
        "no step writes",
        "no step reads b",
    ):
        assert words in problems


def test_a_cron_schedule_has_its_job_as_template(converted):
    """Windows' time zones get the names of IANA; inputs of the schedule replace those of the job."""
    spec = only(converted, "Schedule", "nightly")

    assert (spec["cron"], spec["timeZone"]) == ("0 3 * * *", "Europe/Berlin")
    assert spec["start"] == "2027-01-10T10:00:00+01:00"
    assert spec["template"]["kind"] == "PipelineRun"
    parameters = spec["template"]["spec"]["pipelineSpec"]["parameters"]
    assert parameters == {"rate": {"type": "number", "default": 0.7}}
    assert losses(converted, "schedule.yml").keys() >= {"create_job.priority"}
    assert "PipelineRun/timed-pipeline" not in [name for file in converted.files for name in file.objects]


LOSING: dict[str, Any] = {
    "command": "echo ${{inputs.gone}}",
    "services": {"jupyter": {"type": "jupyter_lab"}},
    "identity": {"type": "user_identity"},
    "queue_settings": {"job_tier": "spot"},
    "limits": {"timeout": 60, "retries": 2},
    "surprise": 1,
}


@pytest.mark.parametrize("is_inline", [True, False])
@pytest.mark.parametrize(
    "job",
    [
        {"type": "command", **LOSING},
        {"type": "pipeline", "jobs": {"a": {"type": "command", **LOSING}}, "identity": {"type": "managed"}},
        {
            "type": "sweep",
            "trial": LOSING,
            "search_space": {"rate": {"type": "uniform", "min_value": 0, "max_value": 1}},
            "objective": {"primary_metric": "loss", "goal": "minimize"},
            "sampling_algorithm": "random",
            "limits": {"max_total_trials": 2},
            "services": {"jupyter": {}},
            "identity": {"type": "managed"},
        },
    ],
)
def test_a_scheduled_job_loses_what_it_loses_alone(tmp_path, job, is_inline):
    """A field of the job that no rule reads is a loss, too, if a schedule starts it."""
    alone = losses(of_text(tmp_path, yaml.safe_dump(job)), "job.yml")
    text = yaml.safe_dump(
        {
            "name": "nightly",
            "trigger": {"type": "cron", "expression": "0 3 * * *"},
            "create_job": job if is_inline else "./job.yml",
        }
    )
    conversion = of_text(tmp_path, text, "nightly.yml")

    assert len(alone) > 2
    if is_inline:
        alone = {f"create_job.{field}": problem for field, problem in alone.items()}
    assert losses(conversion, "nightly.yml" if is_inline else "job.yml") == alone


def test_a_schedule_keeps_the_descriptions_of_its_job(tmp_path):
    """Tags of the job are annotations of the Schedule, whose own words take precedence."""
    (tmp_path / "job.yml").write_text(
        yaml.safe_dump({"type": "command", "command": "ls", "tags": {"team": "a", "cost": "1"}, "description": "Job."})
    )
    schedule = {
        "trigger": {"type": "cron", "expression": "0 3 * * *"},
        "create_job": {"job": "./job.yml", "tags": {"team": "b"}},
        "description": "Each night.",
    }
    conversion = of_text(tmp_path, yaml.safe_dump(schedule), "nightly.yml")

    assert conversion.losses == []
    assert conversion.manifests[0]["metadata"]["annotations"] == {
        "azureml.tags/team": "b",
        "azureml.tags/cost": "1",
        "azureml/description": "Each night.",
    }


@pytest.mark.parametrize(
    ("trigger", "cron", "lost"),
    [
        ({"frequency": "minute", "interval": 15}, "*/15 * * * *", False),
        ({"frequency": "minute", "interval": 7}, "* * * * *", True),
        ({"frequency": "hour", "interval": 6, "start_time": "2027-01-01T00:20:00"}, "20 */6 * * *", False),
        (
            {"frequency": "day", "interval": 1, "schedule": {"hours": [4, 5], "minutes": [0, 30]}},
            "0,30 4,5 * * *",
            False,
        ),
        ({"frequency": "day", "interval": 2, "schedule": {"hours": 3}}, "0 3 * * *", True),
        ({"frequency": "week", "interval": 1, "pattern": {"weekdays": ["Monday", "friday"]}}, "0 0 * * 1,5", False),
        ({"frequency": "week", "interval": 1, "start_time": "2027-01-03T09:05:00Z"}, "5 9 * * 0", False),
        ({"frequency": "month", "interval": 3, "schedule": {"month_days": [1, 15]}}, "0 0 1,15 */3 *", False),
    ],
)
def test_recurrences_become_cron_expressions(tmp_path, trigger, cron, lost):
    """An interval that no expression has is a loss, and becomes the unit itself."""
    job = {"command": "ls", "type": "command"}
    document = {"name": "often", "trigger": {"type": "recurrence", **trigger}, "create_job": job}
    conversion = of_text(tmp_path, yaml.safe_dump(document), "often.yml")

    assert only(conversion, "Schedule", "often")["cron"] == cron
    assert ("trigger.interval" in losses(conversion, "often.yml")) == lost


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "has no trigger"),
        (
            {"trigger": {"type": "cron", "expression": "hourly"}},
            "cron expression 'hourly', which is not valid. Write five",
        ),
        ({"trigger": {"type": "cron", "expression": "0 99 * * *"}}, "cron expression '0 99 * * *', which is not valid"),
        ({"trigger": {"type": "recurrence"}}, "has the frequency nothing. Give minute"),
        ({"trigger": {"frequency": "day"}, "create_job": "azureml:gone"}, "names gone, which no file defines"),
        (
            {"trigger": {"frequency": "day"}, "create_job": {"type": "spark"}},
            "names a job in create_job that is a Spark job",
        ),
    ],
)
def test_a_schedule_without_time_or_job_is_refused(tmp_path, fields, words):
    """The reason says what is missing, and what to write."""
    (tmp_path / "often.yml").write_text(yaml.safe_dump({"$schema": "x/schedule.schema.json", **fields}))

    assert words in reasons(convert([tmp_path]))["often.yml"]


def test_a_pipeline_with_its_own_schedule_is_a_schedule(converted, tmp_path):
    """An early release had the times in the job; without values of its inputs the pipeline alone is left."""
    spec = only(converted, "Schedule", "recount")
    assert (spec["cron"], spec["timeZone"]) == ("0,15 10,12 * * 1,5", "America/Los_Angeles")
    assert spec["suspend"] is True
    (step,) = spec["template"]["spec"]["pipelineSpec"]["steps"]
    assert step["trainingJob"]["command"] == ["wc", "-l", "$(inputs.rows)/rows.csv"]
    assert not any(manifest["kind"] == "PipelineRun" for manifest in convert([FILES / "timed/recount.yml"]).manifests)

    step = {"command": "echo ${{inputs.y}}", "inputs": {"y": "${{parent.inputs.x}}"}}
    times = {"type": "cron", "expression": "0 3 * * *"}
    text = pipeline(schedule=times, inputs={"x": {"type": "string"}}, jobs={"a": step})
    conversion = of_text(tmp_path, text, "open.yml")
    assert [manifest["kind"] for manifest in conversion.manifests] == ["Pipeline"]
    assert losses(conversion, "open.yml")["schedule"] == "makes no Schedule of a pipeline whose inputs have no values"


def test_a_component_of_a_registry_is_the_file_of_its_name(tmp_path):
    """The file beside the pipeline, as Azure's command prints it, is the step."""
    component = {
        "name": "split",
        "type": "command",
        "command": "run ${{inputs.x}}",
        "inputs": {"x": {"type": "number"}},
    }
    (tmp_path / "split.yml").write_text(yaml.safe_dump(component))
    step = {"component": "azureml://registries/shared/components/split/versions/0.1", "inputs": {"x": 1}}
    (tmp_path / "run.yml").write_text(pipeline(jobs={"a": step}))

    job = steps_of(checked(convert([tmp_path / "run.yml"])), "run")["a"]["trainingJob"]
    assert job["command"] == ["run", "$(params.x)"]


def test_imports_are_datasets(converted):
    """A query has its connection in a Secret; a schedule of the import becomes the times of its refresh."""
    orders = only(converted, "Dataset", "orders")

    assert orders["type"] == "table"
    assert orders["source"] == {
        "sql": {"connectionSecretRef": {"name": "crm", "key": "url"}, "query": "select * from orders"}
    }
    assert orders["refresh"] == {"cron": "15 4 * * *", "timeZone": "Europe/Berlin"}
    assert only(converted, "Dataset", "pictures") == {"type": "folder", "source": {"uri": "s3://lake/pictures/"}}
    assert "Secret crm" in losses(converted, "orders.yml")["source.connection"]


def test_a_datastore_is_a_folder_of_the_storage(converted):
    """Paths of a datastore that a file defines lie in its folder, and the loss says what to copy there."""
    objects = {Path(file.file).name: file.objects for file in converted.files}

    assert objects["stored.yml"] == ("data stored: s3://bucket/namespace/datastores/lake/orders/2026.csv",)
    assert losses(converted, "lake.yml") == {
        "container_name": "the content of tables is expected in s3://bucket/namespace/datastores/lake/"
    }


def test_submit_of_a_pipeline_reads_the_components_beside_it():
    """The run gets a name of its own, and the code of its steps is a path to upload."""
    ((run,), notes) = submitted(FILES / "steps/pipeline.yml")

    assert run["kind"] == "PipelineRun"
    assert run["metadata"]["name"].startswith("churn-steps-")
    steps = {step["name"]: step for step in run["spec"]["pipelineSpec"]["steps"]}
    job = steps["clean"]["trainingJob"]
    assert job["source"] == {"path": str(FILES / "steps/clean")}
    assert job["inputs"]["raw"] == {"path": str(FILES / "churn/data/customers.csv")}
    assert any("default_compute" in note for note in notes)
