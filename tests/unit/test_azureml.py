"""Conversion of Azure ML files, of files of our own in the shapes of Azure's examples."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner
from ultramarine.azureml import Conversion, convert, inlined, is_azureml, read_table
from ultramarine.azureml.commands import References, argument_list
from ultramarine.cli import composing
from ultramarine.cli.main import app
from ultramarine.files.validation import faults
from ultramarine.kube.platform import Platform
from ultramarine.resources.pipeline import PipelineSpec
from ultramarine.resources.pipeline_checks import pipeline_faults
from ultramarine.storage.uploads import upload_local_paths
from ultramarine_contract.errors import InvalidSpec, UltramarineError
from ultramarine_contract.meta import Manifest
from ultramarine_contract.storage import Storage

FILES = Path(__file__).parent / "azureml"


def checked(conversion: Conversion) -> Conversion:
    """Fail for a manifest that its schema or a rule refuses, and for two objects of one name."""
    names = [(manifest["kind"], manifest["metadata"]["name"]) for manifest in conversion.manifests]
    assert len(set(names)) == len(names)
    for manifest in conversion.manifests:
        assert faults(manifest) == []
        json.dumps(manifest).encode()
        spec = manifest["spec"]["template"]["spec"] if manifest["kind"] == "Schedule" else manifest["spec"]
        spec = spec.get("pipelineSpec", spec) if isinstance(spec, dict) else {}
        if "steps" in spec:
            assert [*pipeline_faults(PipelineSpec.model_validate(spec, extra="forbid"))] == []
    return conversion


@pytest.fixture(scope="module")
def converted() -> Conversion:
    """The conversion of all files."""
    return checked(convert([FILES]))


def only(conversion: Conversion, kind: str, name: str) -> Manifest:
    """The spec of one object."""
    (manifest,) = [m for m in conversion.manifests if (m["kind"], m["metadata"]["name"]) == (kind, name)]
    spec: Manifest = manifest["spec"]
    return spec


def losses(conversion: Conversion, file: str) -> dict[str, str]:
    """Problems by field, of the files with this name."""
    return {loss.place.field: loss.problem for loss in conversion.losses if Path(loss.place.file).name == file}


def of_text(tmp_path: Path, text: str, name: str = "job.yml") -> Conversion:
    """The conversion of one file."""
    (tmp_path / name).write_text(text)
    return checked(convert([tmp_path / name]))


def test_each_file_converts_or_is_refused_with_a_reason(converted):
    """Each file of the schemas with a counterpart becomes objects; each other file has a reason."""
    files = {Path(file.file).relative_to(FILES.relative_to(Path.cwd())).as_posix(): file for file in converted.files}
    refused = {name for name, file in files.items() if file.refusal}

    assert refused == {f"others/{path.name}" for path in (FILES / "others").iterdir()}
    assert all(file.objects for name, file in files.items() if name not in refused)
    assert "line 2, column 2" in files["others/broken.yml"].refusal
    assert "contains itself" in files["others/cycle.yml"].refusal
    assert "not text" in files["others/binary.yml"].refusal
    assert "it is a parallel job or component, for which no resource exists yet" in files["others/parallel.yml"].refusal
    assert "a step a that depends on itself" in files["others/circle.yml"].refusal
    assert "is a monitor, for which no resource exists yet" in files["others/monitor.yml"].refusal
    assert "is a workspace or registry" in files["others/registry.yml"].refusal
    assert "is the inputs of a batch endpoint" in files["others/batch-inputs.yml"].refusal
    assert "Write a SELECT into query" in files["others/procedure.yml"].refusal
    assert "not an Azure ML file" in files["others/workflow.yml"].refusal


def test_a_command_job_becomes_a_training_job(converted):
    """Content becomes inputs, literals become parameters as Azure writes them, and optional parts without value go."""
    spec = only(converted, "TrainingJob", "churn-train")

    assert spec["command"] == [
        "python",
        "train.py",
        "--table",
        "$(inputs.customers)/customers.csv",
        "--folds",
        "$(params.fold_count)",
        "--rate",
        "$(params.rate)",
        "--balanced",
        "$(params.balanced)",
        "--model",
        "$(outputs.model-dir)",
        "--metrics",
        "$(outputs.report)/report",
    ]
    assert spec["parameters"] == {"fold_count": 5, "rate": 0.05, "balanced": "True"}
    assert spec["inputs"] == {"customers": {"uri": "s3://bucket/namespace/data/customers/customers.csv"}}
    assert spec["outputs"] == {"model-dir": {"registerAs": "churn-model", "format": "mlflow"}, "report": {}}
    assert {"name": "TABLE", "value": "/mnt/inputs/customers/customers.csv"} in spec["env"]
    assert spec["environment"] == {"name": "churn-env-2"}
    assert spec["podTemplate"] == {"sharedMemory": "2Gi"}
    assert spec["activeDeadlineSeconds"] == 3600
    assert losses(converted, "job.yml").keys() >= {"compute", "identity", "services"}


def test_a_loss_has_file_line_field_and_remedy(converted):
    """A loss names its place as an editor counts it, and what to do."""
    (loss,) = [loss for loss in converted.losses if loss.place.field == "services" and "churn" in loss.place.file]

    assert str(loss) == (
        f"{(FILES / 'churn/job.yml').relative_to(Path.cwd())}:40: services: starts no interactive service. "
        "Read the log, or forward a port of the pod."
    )


def test_a_distributed_job_starts_its_processes(converted):
    """Processes per node are kept, and torchrun starts a command that needs a shell."""
    spec = only(converted, "TrainingJob", "churn-distributed")

    assert (spec["nodes"], spec["framework"], spec["processesPerNode"]) == (2, "torch", 4)
    assert spec["command"][:6] == ["python", "-m", "torch.distributed.run", "--no_python", "bash", "-c"]
    assert spec["environment"] == {"requirements": ["torch", "torchvision"]}


def test_a_sweep_job_becomes_a_sweep(converted):
    """Bounds of logarithmic ranges are exponents in Azure; the best trial's model is registered."""
    spec = only(converted, "Sweep", "churn-sweep")

    assert spec["algorithm"] == {"type": "tpe"}
    assert spec["objective"] == {"metric": "valid_auc", "goal": "maximize"}
    assert spec["searchSpace"]["rate"]["logUniform"]["max"] == pytest.approx(0.36787944)
    assert spec["searchSpace"]["depth"] == {"int": {"min": 0, "max": 7}}
    assert spec["searchSpace"]["leaves"] == {"int": {"min": 10, "max": 130, "step": 10}}
    assert spec["searchSpace"]["decay"]["uniform"] == {"min": pytest.approx(0.3), "max": pytest.approx(0.7)}
    assert spec["earlyTermination"] == {
        "type": "bandit",
        "slackFactor": 0.2,
        "evaluationInterval": 2,
        "delayEvaluation": 5,
    }
    assert spec["limits"] == {"maxTrials": 40, "parallelTrials": 4, "trialTimeoutSeconds": 600}
    assert spec["registerBest"] == "churn-best"
    assert spec["trialTemplate"]["spec"]["command"][:2] == ["bash", "-c"]  # a choice has a space
    assert "search_space.decay.type" in losses(converted, "sweep.yml")


def test_steps_of_normal_ranges_are_kept(tmp_path):
    """`q` makes whole numbers of a normal range, as of a uniform one."""
    space = {
        "leaves": {"type": "qnormal", "mu": 31, "sigma": 5, "q": 1},
        "depth": {"type": "qlognormal", "mu": 2, "sigma": 1, "q": 1},
    }
    trial = {"command": "python a.py", "environment": {"image": "a"}}
    objective = {"primary_metric": "auc", "goal": "maximize"}
    (tmp_path / "sweep.json").write_text(json.dumps({"search_space": space, "trial": trial, "objective": objective}))
    conversion = convert([tmp_path])

    [sweep] = conversion.manifests
    assert sweep["spec"]["searchSpace"]["leaves"] == {"int": {"min": 21, "max": 41, "step": 1}}
    assert sweep["spec"]["searchSpace"]["depth"] == {"logInt": {"min": 1, "max": 55}}


def test_a_sweep_over_several_nodes_has_a_pod_per_trial(converted):
    """Several nodes need a TrainingJob for each trial, without retries, of which 1,000 are possible."""
    spec = only(converted, "Sweep", "sweep-nodes")

    assert spec["execution"] == "PodPerTrial"
    assert spec["limits"]["maxTrials"] == 1000
    assert spec["algorithm"] == {"type": "sobol", "seed": 7}
    training = spec["trialTemplate"]["spec"]
    assert (training["nodes"], training["framework"], training["processesPerNode"]) == (3, "mpi", 2)
    assert training["backoffLimit"] == 0


def test_a_conda_file_becomes_requirements(converted):
    """The pip part, its file, and conda packages of the same name are kept; the others are losses."""
    spec = only(converted, "Environment", "churn-env-2")

    assert spec == {
        "python": {"requirements": ["numpy==1.26.*", "lightgbm>=4", "mlflow-skinny", "pandas>=2", "scikit-learn"]}
    }
    problems = [loss.problem for loss in converted.losses if loss.place.file.endswith("conda.yml")]
    assert [problem.split()[0] for problem in problems] == ["Python", "openjdk"]


def test_a_conda_file_belongs_to_the_files_that_name_it(converted, tmp_path):
    """It becomes what they become; one that no file names becomes an Environment, except in a model's folder."""
    (outcome,) = [file for file in converted.files if file.file.endswith("churn/environment/conda.yml")]
    assert {"Environment/churn-env-2", "Sweep/sweep-nodes"} <= set(outcome.objects)

    (tmp_path / "model").mkdir()
    (tmp_path / "model/MLmodel").write_text("flavors: {}")
    for folder in (tmp_path, tmp_path / "model"):
        (folder / "conda.yaml").write_text("{name: tabular, dependencies: [numpy]}")
    conversion = checked(convert([tmp_path]))
    assert [file.objects for file in conversion.files] == [("Environment/tabular",)]


def test_the_content_of_a_models_folder_is_not_listed(tmp_path):
    """Files of a model or code that a converted file names are not listed; all others are."""
    for folder in ("bert", "own", "src"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "vocab.json").write_text("[1, 2]")
        (tmp_path / folder / "tokenizer.json").write_text("1" * 300_000)
    (tmp_path / "bert/settings.yaml").write_text("layers: 12")
    (tmp_path / "src/spark.yml").write_text("type: spark")
    (tmp_path / "own/note.yml").write_text("layers: 12")
    (tmp_path / "other.json").write_text("[1]")
    (tmp_path / "model.yml").write_text("{name: bert, version: 1, type: custom_model, path: bert}")
    (tmp_path / "own/model.yml").write_text("{name: own, version: 1, type: custom_model, path: .}")
    (tmp_path / "job.yml").write_text("{type: command, command: python a.py, code: src, environment: {image: a}}")
    conversion = checked(convert([tmp_path]))

    refused = {str(Path(file.file).relative_to(tmp_path)) for file in conversion.files if file.refusal}
    assert refused == {"other.json", "own/note.yml", "src/spark.yml"}
    (named,) = convert([tmp_path / "bert/vocab.json"]).files
    assert named.refusal


@pytest.mark.parametrize(
    ("packages", "requirements"),
    [
        (["azureml-mlflow"], ["mlflow-skinny"]),
        (["azureml-mlflow==1.51", "mlflow==2.9"], ["mlflow==2.9"]),
        (["azureml-defaults", "joblib"], ["inference-schema", "joblib"]),
        (["azureml-inference-server-http", "inference-schema[numpy-support]"], ["inference-schema[numpy-support]"]),
    ],
)
def test_what_packages_of_azure_bring_along_is_kept(tmp_path, packages, requirements):
    """Scripts import mlflow and inference_schema, which such packages install."""
    document = {"name": "tabular", "dependencies": [{"pip": packages}]}
    conversion = of_text(tmp_path, yaml.safe_dump(document), "conda.yml")

    assert only(conversion, "Environment", "tabular")["python"]["requirements"] == requirements
    assert conversion.losses == []


def test_endpoint_and_deployments_become_one_object(converted):
    """Files of one endpoint are merged by endpoint_name; scripts, limits, scaling and traffic are kept."""
    spec = only(converted, "OnlineEndpoint", "churn-endpoint")
    blue, green = spec["deployments"]

    assert (blue["name"], blue["model"], blue["replicas"]) == ("blue", "churn-file@3", 2)
    assert blue["scoring"]["entry"] == "score.py"
    assert blue["requestSettings"] == {"timeoutSeconds": 4, "maxConcurrentRequests": 2, "maxQueueMilliseconds": 300}
    assert blue["env"] == [{"name": "WORKER_COUNT", "value": "2"}]
    assert (green["name"], green["model"]) == ("green-two", "churn-endpoint-green-two@latest")
    assert green["autoscale"] == {"minReplicas": 1, "maxReplicas": 3, "metric": "cpu", "target": 60}
    assert green["resources"]["limits"] == {"cpu": "1", "nvidia.com/gpu": "1"}
    assert spec["traffic"] == {"blue": 90, "green-two": 10}
    assert spec["dataCollector"]["samplingRate"] == 0.5
    assert losses(converted, "endpoint.yml").keys() >= {"auth_mode", "mirror_traffic", "public_network_access"}


def test_a_local_file_becomes_a_version_and_a_folder_an_import(converted):
    """A version has the digest of its file; a folder keeps its name, below which scripts look for it."""
    version = only(converted, "ModelVersion", "churn-file-3")
    assert version["digest"] == "sha256:1b465fa6b6bcbc06a3199e3d2d8aec35d37494a712f888b6d5536684dd89d0f0"
    assert version["format"] == {"name": "custom"}

    job = only(converted, "TrainingJob", "import-half")
    assert job["command"] == ["cp", "-rT", "$(inputs.model)", "$(outputs.model)/half_plus_two"]
    assert job["outputs"] == {"model": {"registerAs": "half", "format": "custom"}}


def test_a_container_keeps_ports_paths_and_probes(converted):
    """An image with inference_config becomes a container; its variables name the model's folder."""
    (deployment,) = only(converted, "OnlineEndpoint", "endpoint-name")["deployments"]

    assert deployment["container"] == {
        "image": "docker.io/tensorflow/serving:latest",
        "ports": {"http": 8501},
        "startupSeconds": 900,
        "readiness": {
            "path": "/v1/models/half_plus_two",
            "periodSeconds": 10,
            "timeoutSeconds": 2,
            "failureThreshold": 30,
        },
        "liveness": {"path": "/v1/models/half_plus_two"},
    }
    assert deployment["env"] == [{"name": "MODEL_BASE_PATH", "value": "/mnt/model"}]
    assert deployment["requestSettings"] == {"timeoutSeconds": 90}
    assert "endpoint_name" in losses(converted, "tfserving.yml")  # the placeholder


def test_a_deployment_whose_model_is_elsewhere_is_a_container_to_complete(converted):
    """A file without model and image, which Azure's command line completes, names both in a loss."""
    (deployment,) = only(converted, "OnlineEndpoint", "vision")["deployments"]

    assert deployment["container"]["image"] == "image"
    assert losses(converted, "vision.yml")["environment"] == "is missing, as is the model"


def test_early_releases_are_understood(converted):
    """Deployments inside an endpoint, nested paths and single braces become the same objects."""
    spec = only(converted, "OnlineEndpoint", "my-endpoint")
    assert [deployment["model"] for deployment in spec["deployments"]] == ["model-1@1", "model-1@1"]
    assert spec["deployments"][1]["replicas"] == 2
    assert spec["deployments"][1]["resources"] == {"requests": {"cpu": "1.5", "memory": "1024Mi"}}

    job = only(converted, "TrainingJob", "early-job")
    assert job["nodes"] == 2
    assert job["command"][2].splitlines() == [
        "ln -sfn $(outputs.artifacts) outputs && touch outputs/.keep",
        "python train.py --table $(inputs.table)/customers.csv --out outputs/result.txt",
    ]


def test_files_in_the_folder_outputs_are_kept(converted, tmp_path):
    """The platform stores the folder ./outputs of a command, also if the command writes nothing."""
    kept, work = tmp_path / "kept", tmp_path / "work"
    kept.mkdir()
    work.mkdir()
    command = only(converted, "TrainingJob", "early-job")["command"]
    script = command[2].replace("$(outputs.artifacts)", str(kept)).splitlines()[0]

    subprocess.run(["bash", "-c", f"{script}\nmkdir -p outputs\necho 1 > outputs/result.txt"], cwd=work, check=True)

    assert {path.name for path in kept.iterdir()} == {".keep", "result.txt"}


def test_small_code_is_inline_and_the_rest_an_upload(converted):
    """A flat folder of text needs no upload."""
    inline = inlined(converted)

    assert only(inline, "TrainingJob", "churn-train")["source"] == {"inline": {"train.py": 'print("auc=0.9")\n'}}
    assert {upload.kind for upload in inline.uploads} == {"file", "folder"}
    assert "code" in {upload.kind for upload in converted.uploads}


def test_an_upload_says_what_to_run(converted):
    """Local content has the command that uploads it; remote content is to be downloaded before."""
    local, remote = (
        next(str(upload) for upload in converted.uploads if word in upload.source)
        for word in ("data/customers.csv", "wasbs:")
    )

    assert "`ultramarine data put tests/unit/azureml/churn/data/customers.csv data/customers/customers.csv`" in local
    assert "Download it, then run `ultramarine data put PATH data/customers-2/customers.csv`" in remote


def test_compute_targets_map_by_the_project_file(tmp_path):
    """The table of ultramarine.yaml gives a cluster its node selector and resources, and the loss goes."""
    table = {"compute": {"gpu": {"nodeSelector": {"gpu": "a100"}, "resources": {"limits": {"nvidia.com/gpu": 1}}}}}
    manifest = {"kind": "TrainingJob", "spec": {"command": ["ls"]}}
    (tmp_path / "ultramarine.yaml").write_text(yaml.safe_dump_all([manifest, table]))
    assert composing.read_manifests(tmp_path / "ultramarine.yaml") == [manifest]
    (tmp_path / "job.yml").write_text("{type: command, command: nvidia-smi, compute: 'azureml:gpu'}")
    conversion = checked(convert([tmp_path]))

    (manifest,) = conversion.manifests
    assert manifest["spec"]["podTemplate"] == {"nodeSelector": {"gpu": "a100"}}
    assert manifest["spec"]["resources"] == {"limits": {"nvidia.com/gpu": 1}}
    assert conversion.losses == []


def test_each_file_has_the_table_of_its_own_project(tmp_path, monkeypatch):
    """The nearest table counts, past an ultramarine.yaml without one; the working folder's has the remaining names."""
    places = {"here": ("big", "gpu"), "one": ("gpu",), "two": ("gpu",)}
    for folder, names in places.items():
        (tmp_path / folder / "jobs").mkdir(parents=True)
        table = {name: {"nodeSelector": {"pool": folder}} for name in names}
        (tmp_path / folder / "ultramarine.yaml").write_text(yaml.safe_dump({"compute": table}))
        (tmp_path / folder / "jobs/ultramarine.yaml").write_text("kind: TrainingJob")
        for name in ("gpu", "big"):
            text = f"{{type: command, name: {folder}-{name}, command: ls, compute: 'azureml:{name}'}}"
            (tmp_path / folder / f"jobs/{name}.yml").write_text(text)
    monkeypatch.chdir(tmp_path / "here")
    result = CliRunner().invoke(app, ["convert", "azureml", "../one", "../two", "-o", "out"])

    assert result.exit_code == 0, result.output
    pools = {
        manifest["metadata"]["name"]: manifest["spec"]["podTemplate"]["nodeSelector"]["pool"]
        for manifest in (yaml.safe_load(file.read_text()) for file in Path("out").iterdir())
    }
    assert pools == {"one-gpu": "one", "two-gpu": "two", "one-big": "here", "two-big": "here"}
    assert "Not converted: ../one/ultramarine.yaml" not in result.output


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("compute: [1]", "not a mapping"),
        ("compute: {gpu: {nodes: 2}}", "has other fields than nodeSelector, tolerations, resources"),
        ("compute: {gpu: {resources: {limits: 2}}}", "invalid at limits"),
        ("compute: {", "cannot be read"),
    ],
)
def test_a_wrong_table_of_compute_targets_is_refused(tmp_path, table, words):
    """The message names the file, the entry and the remedy."""
    (tmp_path / "ultramarine.yaml").write_text(table)

    with pytest.raises(InvalidSpec, match=words):
        read_table(tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("python train.py --name 'a b'", ["python", "train.py", "--name", "a b"]),
        ("python train.py $(inputs.x)/a.csv", ["python", "train.py", "$(inputs.x)/a.csv"]),
        ("python a.py | tee log", ["bash", "-c", "python a.py | tee log"]),
        ("A=1 python a.py", ["bash", "-c", "A=1 python a.py"]),
        ("cd src && python a.py", ["bash", "-c", "cd src && python a.py"]),
        ("echo 'never closed", ["bash", "-c", "echo 'never closed"]),
    ],
)
def test_a_shell_runs_only_what_needs_one(text, expected):
    """A plain command becomes a list; shell syntax goes to bash, as in Azure."""
    assert argument_list(text) == expected


def test_a_literal_that_a_shell_would_split_is_split(tmp_path):
    """A literal with spaces becomes several words, as in Azure."""
    conversion = of_text(tmp_path, "{type: command, command: 'run ${{inputs.words}}', inputs: {words: '--a 1 --b'}}")

    assert conversion.manifests[0]["spec"]["command"] == ["bash", "-c", "run $(params.words)"]


@pytest.mark.parametrize(
    ("command", "environment", "kept"),
    [
        (
            "pip install papermill 'numpy>=2'\npapermill a.ipynb",
            {"requirements": ["papermill", "numpy>=2"]},
            "papermill a",
        ),
        ("pip install -r requirements.txt && python a.py", {"requirementsFile": "requirements.txt"}, "python a"),
        ("pip install 'numpy>=2' -q --upgrade && python a.py", {"requirements": ["numpy>=2"]}, "python a"),
        ("pip install mlflow azureml-mlflow; python a.py", {"requirements": ["mlflow"]}, "python a"),
        ("pip install --user . && python a.py", None, "pip install --user ."),
        ("pip install numpy", {"requirements": ["numpy"]}, "pip install numpy"),
    ],
)
def test_packages_that_a_command_installs_go_into_the_environment(tmp_path, command, environment, kept):
    """No job reaches a package index, so what pip would install is built before, or named as a loss."""
    (tmp_path / "src").mkdir()
    document = {"type": "command", "command": command, "code": "src"}
    conversion = of_text(tmp_path, yaml.safe_dump(document))

    spec = conversion.manifests[0]["spec"]
    assert spec.get("environment") == environment
    assert " ".join(spec["command"]).removeprefix("bash -c ").startswith(kept)
    assert ("command" in losses(conversion, "job.yml")) == (command != "pip install numpy")


def test_an_expression_without_a_value_is_a_loss(tmp_path):
    """A name that is not defined becomes nothing, and is named."""
    conversion = of_text(tmp_path, "{type: command, command: 'run ${{inputs.lost}} ${{outputs.gone}}', outputs: {a: }}")

    assert conversion.manifests[0]["spec"] == {"command": ["run"]}
    problems = {loss.problem for loss in conversion.losses}
    assert {f"{name} is not defined, and becomes nothing" for name in ("inputs.lost", "outputs.gone")} <= problems
    assert "no command refers to it, so it was left out" in problems


def test_a_model_of_a_registry_has_the_command_that_fetches_it(tmp_path):
    """As an input and behind an endpoint; other content is downloaded by hand."""
    path = "azureml://registries/shared/models/Bert/versions/4"
    command = "az ml model download --registry-name shared --name Bert --version 4"
    text = f"{{type: command, command: 'ls ${{{{inputs.m}}}}', inputs: {{m: {{type: mlflow_model, path: '{path}'}}}}}}"
    (upload,) = of_text(tmp_path, text).uploads
    assert f"Run `{command}`, then run `ultramarine data put PATH models/bert-4/`" in str(upload)

    conversion = of_text(
        tmp_path, f"{{name: blue, endpoint_name: nlp, model: '{path}', instance_count: 1}}", "blue.yml"
    )
    (loss,) = [loss for loss in conversion.losses if loss.place.field == "model"]
    assert loss.remedy == f"Run `{command}`, then `ultramarine models import PATH --as bert`"


def test_an_expression_of_another_sort_is_a_loss(tmp_path):
    """A shell would fail at it, in a command as in a variable."""
    text = "{type: command, command: 'run ${{parent.inputs.x}}', environment_variables: {A: '${{name}}'}}"
    conversion = of_text(tmp_path, text)

    assert conversion.manifests[0]["spec"] == {"command": ["run"], "env": [{"name": "A", "value": ""}]}
    assert losses(conversion, "job.yml") == {
        "command": "parent.inputs.x is not defined, and becomes nothing",
        "environment_variables.A": "name is not defined, and becomes nothing",
    }


def test_optional_parts_keep_what_has_a_value():
    """Optional parts without a value vanish, the others lose their brackets."""
    references = References({("inputs", "a"): "$(params.a)"})

    assert references.fill("x $[[--a ${{inputs.a}}]] $[[--b ${{ inputs.b }}]]") == "x --a $(params.a) "


def test_a_file_without_a_schema_is_recognized_by_its_shape(tmp_path):
    """Neither $schema nor type is needed."""
    shapes = {
        "command job": {"command": "python a.py", "environment": {"image": "a"}},
        "sweep job": {"search_space": {}, "trial": {"command": "x"}},
        "online endpoint": {"name": "a", "auth_mode": "key"},
        "online deployment": {"name": "a", "endpoint_name": "b"},
        "environment": {"name": "a", "image": "b"},
        "data asset": {"type": "uri_folder", "path": "b"},
        "model": {"name": "my-model", "path": "b"},
    }
    for number, value in enumerate(shapes.values()):
        (tmp_path / f"{number}.json").write_text(json.dumps(value))

    files = convert([tmp_path]).files
    assert [file.schema for file in files] == list(shapes)


def test_another_version_of_an_asset_is_a_loss(tmp_path):
    """`@latest` is the highest version of the files; a version that no file has is replaced, and named."""
    for version in (2, 10):
        text = f"{{name: env, version: {version}, conda_file: {{dependencies: [numpy={version}.0.1]}}}}"
        (tmp_path / f"env{version}.yml").write_text(text)
    for name, reference in (("newest", "env@latest"), ("two", "env:2"), ("seven", "env:7")):
        (tmp_path / f"{name}.yml").write_text(f"{{type: command, command: ls, environment: 'azureml:{reference}'}}")
    conversion = checked(convert([tmp_path]))

    environments = {name: only(conversion, "TrainingJob", name)["environment"]["name"] for name in ("newest", "two")}
    assert environments == {"newest": "env-10", "two": "env-2"}
    assert losses(conversion, "seven.yml") == {
        "environment": "version 7 of env is not among the files, so version 10 is used"
    }


def test_an_endpoint_without_files_beside_it_says_which_are_missing(tmp_path):
    """An endpoint needs a deployment; the reason says by which name its files are found."""
    (file,) = of_text(tmp_path, "name: churn-endpoint\nauth_mode: key\n", "endpoint.yml").files

    assert file.refusal == (
        "has no deployment. Convert it together with the files whose endpoint_name is churn-endpoint"
    )


def test_an_endpoint_alone_names_the_files_beside_it(tmp_path, monkeypatch):
    """Azure creates the endpoint first; here its file needs those of the deployments, which the reason names."""
    shutil.copytree(FILES / "churn", tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)

    (file,) = convert([Path("endpoint.yml")]).files

    assert "`ultramarine convert azureml endpoint.yml blue.yml green.yml -o DIR`" in file.refusal
    assert "or submit blue.yml, which makes the endpoint too" in file.refusal


def test_a_deployment_alone_says_what_its_endpoint_would_add(tmp_path, monkeypatch):
    """A deployment makes its endpoint, without the settings of the endpoint's file."""
    shutil.copytree(FILES / "churn", tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)

    conversion = checked(convert([Path("blue.yml")]))

    assert [deployment["name"] for deployment in only(conversion, "OnlineEndpoint", "churn-endpoint")["deployments"]]
    assert losses(conversion, "blue.yml")["endpoint_name"].startswith("endpoint.yml has the endpoint's authentication")


def test_a_deployment_without_an_endpoint_gets_one_of_its_own(tmp_path):
    """`az ml online-deployment create --endpoint NAME` takes such a file."""
    conversion = checked(convert([FILES / "nameless/blue.yml"]))

    assert only(conversion, "OnlineEndpoint", "blue")["deployments"][0]["name"] == "blue"
    assert losses(conversion, "blue.yml")["endpoint_name"] == "is missing, so the endpoint is blue"


def test_images_and_versions_of_python_that_cannot_be_kept_say_why(tmp_path):
    """Pods run on the platform's images, so that a loss names the reason and what to do."""
    environment = "image: mcr.example/base:1\n  conda_file: {dependencies: [python=3.8, {pip: [numpy]}]}"
    conversion = of_text(tmp_path, f"type: command\ncommand: python a.py\nenvironment:\n  {environment}\n")

    assert losses(conversion, "job.yml") == {
        "environment.image": (
            "mcr.example/base:1 became the platform's image, since pods need the platform's own programs"
        ),
        "environment.conda_file.dependencies.0": (
            "Python 3.8 became 3.11, since the pods run on the platform's images"
        ),
    }


def test_the_default_output_of_a_step_is_passed_on(tmp_path):
    """A step that declares `artifacts` gives its folder ./outputs to the next one, under the same path."""
    text = """
type: pipeline
jobs:
  write:
    command: echo 1 > ./outputs/one.txt
    outputs: {artifacts: }
  read:
    command: cat ${{inputs.written}}/outputs/one.txt
    inputs: {written: "${{parent.jobs.write.outputs.artifacts}}"}
"""
    conversion = of_text(tmp_path, text, "pipeline.yml")
    (manifest,) = checked(conversion).manifests
    write, read = manifest["spec"]["pipelineSpec"]["steps"]

    assert conversion.losses == []
    assert write["trainingJob"]["command"][2].splitlines()[:2] == [
        "mkdir -p $(outputs.artifacts)/outputs",
        "ln -sfn $(outputs.artifacts)/outputs outputs && touch outputs/.keep",
    ]
    assert read["trainingJob"]["inputs"] == {"written": {"uri": "$(steps.write.outputs.artifacts)"}}


def test_a_pipeline_without_values_and_a_component_have_two_names(tmp_path):
    """Both become Pipelines, so that one of the same name gets a number."""
    step = "jobs: {one: {command: echo, inputs: {x: '${{parent.inputs.x}}'}}}"
    for name, schema in (("a", "pipelineJob"), ("b", "pipelineComponent")):
        text = f"$schema: {schema}.schema.json\ntype: pipeline\nname: fit\ninputs: {{x: {{type: string}}}}\n{step}\n"
        (tmp_path / f"{name}.yml").write_text(text)

    names = [manifest["metadata"]["name"] for manifest in checked(convert([tmp_path])).manifests]

    assert names == ["fit", "fit-2"]


def test_an_environment_of_a_project_is_not_a_curated_one(tmp_path):
    """Azure's own have a version in their name, as in sklearn-1.5."""
    text = "type: command\ncommand: python a.py\nenvironment: azureml:sklearn-churn@latest\n"

    assert losses(of_text(tmp_path, text), "job.yml")["environment"].startswith("no file of this conversion defines")


def test_two_files_of_one_deployment_become_two_endpoints(tmp_path):
    """A second file of the same name is an alternative, and does not overwrite the first."""
    shutil.copytree(FILES / "churn", tmp_path / "churn")
    shutil.copy(tmp_path / "churn/blue.yml", tmp_path / "churn/blue-next.yml")
    conversion = checked(convert([tmp_path]))

    endpoints = [m["metadata"]["name"] for m in conversion.manifests if m["kind"] == "OnlineEndpoint"]
    assert sorted(endpoints) == ["churn-endpoint", "churn-endpoint-2"]


def test_hostile_files_are_refused_with_a_reason(tmp_path):
    """Bombs of aliases, deep nesting, odd keys, links to themselves and huge files end in a reason."""
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{chr(98 + level)}: &{chr(98 + level)} [{', '.join([f'*{chr(97 + level)}'] * 9)}]\n" for level in range(9)
    )
    contents = {
        "bomb.yml": bomb,
        "deep.yml": "[" * 5000,
        "merge.yml": "a: &a {<<: *a}",
        "key.yml": "? [a]\n: 1\n",
        "tag.yml": "a: !!python/object/apply:os.system [ls]\nb: [\n",
        "large.yml": "a: " + "x" * 210_000,
        "tab.json": '{\t"a": [1,]}',
    }
    for name, text in contents.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "link.yml").symlink_to(tmp_path / "link.yml")
    (tmp_path / "folder.yml").mkdir()
    (tmp_path / "folder.yml/again").symlink_to(tmp_path)

    files = {Path(file.file).name: file.refusal for file in convert([tmp_path]).files}
    assert files.keys() == {*contents, "link.yml"}
    assert all(files.values())
    with pytest.raises(InvalidSpec, match="does not exist"):
        convert([tmp_path / "nothing.yml"])


def test_the_command_writes_manifests_and_a_report(tmp_path, monkeypatch):
    """`ultramarine convert azureml` writes a file for each object, and prints losses; it overwrites nothing."""
    monkeypatch.chdir(FILES.parents[2])
    words = ["convert", "azureml", str(FILES / "churn"), "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*words, "--report", str(tmp_path / "report.json"), "--location", "s3://lake/ada"])

    assert result.exit_code == 0, result.output
    job = yaml.safe_load((tmp_path / "out/trainingjob-churn-train.yaml").read_text())
    assert job["spec"]["inputs"]["customers"]["uri"].startswith("s3://lake/ada/data/")
    report = json.loads((tmp_path / "report.json").read_text())
    assert report.keys() == {"files", "uploads", "losses", "notes"}
    assert report["losses"][0].keys() == {"file", "line", "field", "problem", "remedy"}
    assert "12 of 12 files converted to 9 manifests" in result.stdout
    again = CliRunner().invoke(app, words)
    assert isinstance(again.exception, UltramarineError)
    assert "exists. Choose an empty folder" in str(again.exception)
    with pytest.raises(InvalidSpec, match="location team-a is not a folder of a bucket"):
        convert([FILES / "churn"], "team-a")


def test_what_converts_is_told_from_manifests():
    """`submit` asks whether a file is one of Azure ML, also one that has no counterpart."""
    assert is_azureml(FILES / "churn/job.yml")
    assert is_azureml(FILES / "others/parallel.yml")
    assert not is_azureml(FILES / "others/workflow.yml")
    assert not is_azureml(FILES / "others/broken.yml")


def submitted(file: Path, *data: str) -> tuple[list[Manifest], list[str]]:
    """Objects that `submit` creates of a file, and its notes."""
    notes: list[str] = []
    options = composing.Options("", list(data), "", "", "", "", "", 0, [], [])
    return composing.manifests_of(file, options, notes.append, lambda: "s3://lake/ada/"), notes


def test_a_model_that_a_job_of_the_conversion_registers_is_no_loss(tmp_path):
    """The job's output has the name of the deployment's model; without the job, a cluster may have it."""
    (tmp_path / "job.yml").write_text(
        "{type: command, command: 'fit ${{outputs.model}}', environment: {image: a},"
        " outputs: {model: {type: mlflow_model, name: azchurn}}}"
    )
    (tmp_path / "blue.yml").write_text("{name: blue, endpoint_name: churn, model: 'azureml:azchurn@latest'}")

    alone, both = convert([tmp_path / "blue.yml"]), checked(convert([tmp_path]))
    assert only(both, "OnlineEndpoint", "churn")["deployments"][0]["model"] == "azchurn@latest"
    assert "model" not in losses(both, "blue.yml")
    (loss,) = [loss for loss in alone.losses if loss.place.field == "model"]
    assert loss.remedy.startswith("Unless the namespace has model azchurn, ")


def test_submit_takes_a_job_as_it_is():
    """Local code and data are paths that `submit` uploads, each submission has a name of its own, losses are noted."""
    ((environment, job), notes) = submitted(FILES / "churn/job.yml")

    assert (environment["kind"], environment["metadata"]["name"]) == ("Environment", "churn-env-2")
    assert job["spec"]["environment"] == {"name": "churn-env-2"}
    assert job["metadata"]["name"].startswith("churn-train-")
    assert job["spec"]["source"] == {"path": str(FILES / "churn/src")}
    assert job["spec"]["inputs"] == {"customers": {"path": str(FILES / "churn/data/customers.csv")}}
    assert any("services: starts no interactive service" in note for note in notes)


def test_submit_of_a_deployment_uploads_its_script():
    """A deployment's script is a path, too."""
    manifests, _ = submitted(FILES / "churn/green.yml")

    (endpoint,) = [manifest for manifest in manifests if manifest["kind"] == "OnlineEndpoint"]
    assert endpoint["spec"]["deployments"][0]["scoring"]["source"] == {"path": str(FILES / "churn/scoring")}


@dataclass
class Place:
    """The namespace's folder of a real storage."""

    storage: Storage
    prefix: str


def test_submit_uploads_scripts_and_models(storage, bucket):
    """The script of a deployment and the file of a version are in the storage, under the name of their content."""
    manifests, _ = submitted(FILES / "churn/model.yml")
    manifests += submitted(FILES / "churn/green.yml")[0]
    place = Place(storage, f"s3://{bucket}/ada/")
    uploaded = {m["kind"]: upload_local_paths(cast(Platform, place), m)["spec"] for m in manifests}

    version = uploaded["ModelVersion"]
    assert storage.read(version["uri"]) == b"weights\n"
    assert "path" not in version
    source = uploaded["OnlineEndpoint"]["deployments"][0]["scoring"]["source"]
    assert source.keys() == {"uri", "digest"}
    assert storage.exists(source["uri"])


def test_submit_asks_for_content_that_is_elsewhere(tmp_path):
    """An address of Azure cannot be uploaded; the message names it and the option that replaces it."""
    with pytest.raises(InvalidSpec, match=r"https://example.com/tables/customers.csv is not on this machine.*--data"):
        submitted(FILES / "early/job.yml")

    (tmp_path / "customers.csv").write_text("id")
    ((job,), _) = submitted(FILES / "early/job.yml", f"table={tmp_path / 'customers.csv'}")
    assert job["spec"]["inputs"] == {"table": {"path": str(tmp_path / "customers.csv")}}


def test_submit_of_a_data_asset_names_the_command():
    """A data asset has no object, so `submit` says what uploads it."""
    with pytest.raises(InvalidSpec, match=r"has no object of its own\. Run `ultramarine data put .*customers\.csv"):
        submitted(FILES / "churn/customers.yml")


def test_submit_refuses_what_has_no_counterpart():
    """A pipeline with a parallel step is refused with a reason and what to use instead."""
    with pytest.raises(
        InvalidSpec, match=r"is a parallel job .*, for which no resource exists yet\. Process the files"
    ):
        submitted(FILES / "others/parallel.yml")


def test_only_assets_that_a_named_file_refers_to_are_read_beside_it(tmp_path):
    """Other files of the folder stay out, also broken ones; so does another asset of the folder."""
    (tmp_path / "job.yml").write_text("{type: command, command: ls, environment: 'azureml:tabular@latest'}")
    (tmp_path / "env.yml").write_text("{name: tabular, version: 4, conda_file: {dependencies: [numpy]}}")
    (tmp_path / "other.yml").write_text("{name: other, version: 4, conda_file: {dependencies: [numpy]}}")
    (tmp_path / "second.yml").write_text("{type: command, command: ls}")
    (tmp_path / "broken.yml").write_text("a: [")
    conversion = checked(convert([tmp_path / "job.yml"]))

    assert [Path(file.file).name for file in conversion.files] == ["job.yml", "env.yml"]
    assert [manifest["kind"] for manifest in conversion.manifests] == ["Environment", "TrainingJob"]


def test_a_model_beside_a_job_is_an_input_and_not_registered(tmp_path):
    """A submission of the job does not make another version of the model; one of a deployment needs it."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model.yml").write_text("{name: base, type: custom_model, path: model}")
    inputs = {"m": {"type": "custom_model", "path": "azureml:base@latest"}}
    job = {"type": "command", "command": "ls ${{inputs.m}}", "inputs": inputs}
    (tmp_path / "job.yml").write_text(yaml.safe_dump(job))
    (tmp_path / "blue.yml").write_text("{name: blue, endpoint_name: a, model: 'azureml:base@latest'}")

    (run,) = checked(convert([tmp_path / "job.yml"])).manifests
    assert run["spec"]["inputs"] == {"m": {"uri": "s3://bucket/namespace/models/model/"}}
    deployed = checked(convert([tmp_path / "blue.yml"]))
    assert [manifest["kind"] for manifest in deployed.manifests] == ["TrainingJob", "OnlineEndpoint"]


def test_code_that_is_a_file_is_its_folder(tmp_path):
    """Azure takes one file as code; here its folder is, which a loss says."""
    (tmp_path / "load.py").write_text("print(1)")
    conversion = of_text(tmp_path, "{type: command, command: python load.py, code: load.py}")

    assert conversion.uploads[0].source == str(tmp_path)
    assert "is a file, so its folder is the code" in losses(conversion, "job.yml")["code"]


SAMPLES = [
    document
    for path in sorted(FILES.rglob("*.y*ml"))
    if path.parent.name != "others" and "{{endpoint" not in (text := path.read_text())
    for document in yaml.safe_load_all(text)
]
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["azureml:a@latest", "azureml:a:1", "../..", "s3://bucket/key", "${{inputs.a}}", "https://a/b.c"]),
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all values below a value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in items:
        yield (*path, key)
        yield from places(child, (*path, key))


@st.composite
def distorted(draw: st.DrawFn) -> Any:
    """A file of the samples in which some values are replaced."""
    document = copy.deepcopy(draw(st.sampled_from(SAMPLES)))
    for _ in range(draw(st.integers(1, 3))):
        paths = sorted(places(document), key=str)
        if paths:
            path = draw(st.sampled_from(paths))
            node = document
            for key in path[:-1]:
                node = node[key]
            node[path[-1]] = draw(VALUES)
    return document


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(documents=st.lists(distorted(), min_size=1, max_size=3))
def test_distorted_files_convert_to_valid_manifests_or_are_refused(documents):
    """Any value at any place ends in manifests that their schemas accept, or in a reason."""
    with tempfile.TemporaryDirectory() as folder:
        for number, document in enumerate(documents):
            Path(folder, f"{number}.yml").write_text(yaml.safe_dump(document))
        conversion = checked(convert([Path(folder)]))
    assert len(conversion.files) == len(documents)
    assert all(file.objects or file.refusal for file in conversion.files)


@settings(max_examples=200)
@given(content=st.binary(max_size=300))
def test_any_bytes_convert_or_are_refused(content):
    """No content of a file ends in an exception."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "file.yml").write_bytes(content)
        files = convert([Path(folder, "file.yml")]).files
    assert files
    assert all(file.refusal or file.objects for file in files)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("command: ls\ncode: .\ncommand: cat\n", "line 3: command stands twice, first in line 1. Remove one"),
        ("command: ls\ninputs: {rate: 1, rate: 2}\n", "line 2: rate stands twice, first in line 2"),
        ('{"command": "ls",\n"jobs": [{"a": 1,\n"a": 2}]}', "line 3: a stands twice, first in line 2"),
    ],
)
def test_a_key_that_stands_twice_is_refused(tmp_path, text, words):
    """The refusal names both lines; Azure would take the last one."""
    (tmp_path / "job.yml").write_text(text)
    (file,) = convert([tmp_path / "job.yml"]).files

    assert words in file.refusal
    with pytest.raises(UltramarineError, match="stands twice"):
        composing.manifests_of(tmp_path / "job.yml", composing.NONE, print, lambda: "s3://bucket/n")


def test_a_merged_key_may_be_replaced(tmp_path):
    """Keys of an anchor are no second ones, also if they are merged again."""
    text = """
type: command
command: echo ${{inputs.a}} ${{inputs.b}}
environment_variables: &first {a: one, b: one}
inputs: &second {<<: *first, b: two, a: two}
tags: {<<: *second, a: three}
"""
    conversion = of_text(tmp_path, text)

    spec = conversion.manifests[0]["spec"]
    assert spec["parameters"] == {"a": "two", "b": "two"}
    assert spec["env"] == [{"name": "a", "value": "one"}, {"name": "b", "value": "one"}]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("command: 'a ${{inputs.lrate}}'\ninputs: {lr: 1}", r"job.yml:2: command: .* Did you mean inputs\.lr\?"),
        ("command: 'a ${{search_space.x}}'", r"search_space\.x is not defined, and becomes nothing. Add it"),
        ("command: a\nenvironment_variables: {A: '${{inputs.lt}}'}\ninputs: {lr: 1}", r"A: .* mean inputs\.lr"),
    ],
)
def test_submit_refuses_a_command_with_an_undefined_name(tmp_path, text, words):
    """A name that the file does not declare is a mistake; `convert` keeps it as a loss."""
    conversion = of_text(tmp_path, f"type: command\n{text}")

    assert len(conversion.losses) == 1
    assert "is_mistake" not in conversion.as_document()["losses"][0]
    with pytest.raises(InvalidSpec, match=words):
        composing.manifests_of(tmp_path / "job.yml", composing.NONE, print, lambda: "s3://bucket/n")


def test_submit_refuses_a_step_that_reads_an_undefined_name(tmp_path):
    """Inputs of the pipeline and its jobs are the names that a step may read."""
    step = {"command": "a ${{inputs.x}}", "inputs": {"x": "${{parent.inputs.lrate}}"}}
    text = yaml.safe_dump({"type": "pipeline", "inputs": {"lr": 1}, "jobs": {"a": step}})
    (tmp_path / "job.yml").write_text(text)

    with pytest.raises(InvalidSpec, match=r"inputs\.lrate is not defined, .* Did you mean inputs\.lr\?"):
        composing.manifests_of(tmp_path / "job.yml", composing.NONE, print, lambda: "s3://bucket/n")
