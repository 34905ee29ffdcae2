"""Typed objects of the SDK: arguments in either spelling, manifests, YAML, local paths, and errors."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ultramarine
import yaml
from materials import MATERIALS
from ultramarine import errors
from ultramarine.client import as_manifest
from ultramarine.kube.client import Cluster
from ultramarine.objects import Object
from ultramarine.resources.base import Resources
from ultramarine.results import outputs_of
from ultramarine_contract.errors import InvalidSpec
from ultramarine_contract.meta import TRAINING_JOB
from ultramarine_operator.kinds import KINDS

SWEEP: dict[str, Any] = {
    "objective": {"metric": "accuracy", "goal": "maximize"},
    "search_space": {"lr": {"log_uniform": {"min": 0.001, "max": 0.1}}},
    "limits": {"max_trials": 20},
    "trial_template": {"spec": {"command": ["python", "train.py"], "source": {"path": "."}}},
}


def job(**fields: Any) -> ultramarine.TrainingJob:
    """Return a small job."""
    return ultramarine.TrainingJob(**{"name": "churn", "command": ["python", "train.py"], **fields})


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_each_kind_has_a_class_with_every_field(kind: Any) -> None:
    """A whole manifest becomes an object and the same manifest again."""
    cls: type[Object] = getattr(ultramarine, kind.name)
    manifest = {"apiVersion": kind.resource.api_version, "kind": kind.name, **MATERIALS[kind.name].whole}

    made = cls.from_manifest(manifest)

    assert set(kind.spec.model_fields) <= set(cls.model_fields)
    assert kind.spec.model_validate(made.manifest()["spec"]) == kind.spec.model_validate(manifest["spec"])
    assert made.manifest()["metadata"] == manifest["metadata"]
    assert cls.from_yaml(made.to_yaml()) == made


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_no_field_of_a_spec_hides_one_of_the_metadata(kind: Any) -> None:
    """Names of both stand side by side as arguments."""
    assert not set(kind.spec.model_fields) & set(Object.model_fields)


def test_only_given_fields_are_in_the_manifest() -> None:
    """Defaults are the server's, and both spellings of a name give that of the API."""
    fields = {"backoff_limit": 1, "activeDeadlineSeconds": 60, "outputs": {"model": {"register_as": "churn"}}}

    assert job(**fields, labels={"team": "a"}).manifest() == {
        "apiVersion": "ultramarine.dev/v1alpha1",
        "kind": "TrainingJob",
        "metadata": {"name": "churn", "labels": {"team": "a"}},
        "spec": {
            "command": ["python", "train.py"],
            "backoffLimit": 1,
            "activeDeadlineSeconds": 60,
            "outputs": {"model": {"registerAs": "churn"}},
        },
    }


def test_parts_are_models_or_dicts() -> None:
    """A nested part may be written in either way."""
    resources = {"requests": {"cpu": 2}}

    assert job(resources=resources) == job(resources=Resources(requests={"cpu": 2}))


def test_local_paths_are_kept_for_the_upload() -> None:
    """Source, inputs, trials and scoring scripts may name a local path."""
    endpoint = ultramarine.OnlineEndpoint(
        name="churn", deployments=[{"name": "blue", "model": "churn@1", "scoring": {"source": {"path": "score"}}}]
    )

    assert job(source={"path": Path("src")}).manifest()["spec"]["source"] == {"path": "src"}
    assert job(inputs={"d": {"path": "a.csv"}}).manifest()["spec"]["inputs"] == {"d": {"path": "a.csv"}}
    trial = ultramarine.Sweep(name="s", **SWEEP).manifest()["spec"]["trialTemplate"]["spec"]
    assert trial["source"] == {"path": "."}
    assert endpoint.manifest()["spec"]["deployments"][0]["scoring"] == {"source": {"path": "score"}}


def test_local_paths_of_a_file_are_relative_to_it(tmp_path: Path) -> None:
    """A file means the same in whatever folder the program runs."""
    file = tmp_path / "job.yaml"
    file.write_text(job(source={"path": "src"}, inputs={"d": {"path": "/data/a.csv"}}).to_yaml())

    spec = ultramarine.TrainingJob.from_yaml(file).manifest()["spec"]

    assert spec["source"]["path"] == str(tmp_path / "src")
    assert spec["inputs"]["d"]["path"] == "/data/a.csv"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"comand": ["a"]}, "comand: unknown field, did you mean command?"),
        ({"resources": {"request": {}}}, "resources.request: unknown field, did you mean requests?"),
        ({"inputs": {"d": {"pth": "x"}}}, "inputs.d.pth: unknown field, did you mean path?"),
        ({"outputs": {"m": {"registerAs": "No Name"}}}, "outputs.m.registerAs: must be lower-case letters"),
        ({"env": [{"nam": "A"}]}, "env[0].nam: unknown field, did you mean name?"),
        ({"backoff_limit": 1000}, "backoff_limit: input should be less than or equal to 100"),
        ({"command": []}, "command: list should have at least 1 item"),
    ],
)
def test_an_error_names_kind_name_and_field(fields: dict[str, Any], words: str) -> None:
    """The message has the path of the field, and the nearest name of an unknown one."""
    with pytest.raises(InvalidSpec) as caught:
        job(**fields)

    assert caught.value.message.startswith("TrainingJob churn: ")
    assert words in caught.value.message


def test_all_wrong_fields_are_named_at_once() -> None:
    """A message has every field that is wrong."""
    with pytest.raises(InvalidSpec) as caught:
        ultramarine.Sweep(name="s")

    assert {"search_space: required", "trial_template: required"} <= set(
        caught.value.message.removeprefix("Sweep s: ").split("; ")
    )


def test_a_manifest_of_another_kind_is_refused() -> None:
    """A class reads its own kind alone."""
    with pytest.raises(InvalidSpec, match=r"expected Sweep of .*, not TrainingJob"):
        ultramarine.Sweep.from_manifest(job().manifest())


@pytest.mark.parametrize("text", ["", "a: [", "kind: A\n---\nkind: B\n", "- 1\n"])
def test_a_text_without_one_manifest_is_refused(text: str) -> None:
    """YAML with a fault, without a manifest or with two is an InvalidSpec."""
    with pytest.raises(InvalidSpec):
        ultramarine.TrainingJob.from_yaml(text)


@pytest.mark.parametrize(("text", "remedy"), [("bad2.yaml", r"from_yaml\(Path\(FILE\)\)"), ("- 1", "such as kind")])
def test_a_text_that_is_no_manifest_has_a_remedy(text: str, remedy: str) -> None:
    """The name of a file is taken for a text; the message says how to read the file."""
    with pytest.raises(InvalidSpec, match=remedy):
        ultramarine.TrainingJob.from_yaml(text)


def test_the_client_takes_no_path() -> None:
    """A path is neither a manifest nor an object; the message says how to read it."""
    with pytest.raises(InvalidSpec, match=r"not 'az/job.yml'. Read a file by .* or run `ultramarine submit FILE`"):
        as_manifest("az/job.yml")  # type: ignore[arg-type]


def test_a_taken_name_is_refused_before_an_upload(monkeypatch: pytest.MonkeyPatch) -> None:
    """The namespace has no storage here, so an upload would be another error."""
    client = ultramarine.Client.__new__(ultramarine.Client)
    client.kinds = SimpleNamespace(of=lambda manifest: TRAINING_JOB)  # type: ignore[assignment]
    client.cluster = Cluster.__new__(Cluster)
    client.cluster.namespace = "team-a"
    monkeypatch.setattr(client.cluster, "get", lambda resource, name: {})

    with pytest.raises(errors.Exists, match=r"^TrainingJob team-a/churn already exists\. Choose another name"):
        client.submit(job(source={"path": "."}))


@pytest.mark.parametrize(
    ("command", "remedy"),
    [
        ("python train.py --lr 1", "['python', 'train.py', '--lr', '1']"),
        ("python a.py && python b.py", "['sh', '-c', 'python a.py && python b.py']"),
        ("echo it's", """['sh', '-c', "echo it's"]"""),
    ],
)
def test_a_command_as_a_text_names_the_list(command: str, remedy: str) -> None:
    """The message has the list to write."""
    with pytest.raises(InvalidSpec, match=re.escape(f"command: must be a list, such as {remedy}")):
        ultramarine.TrainingJob(command=command)


def test_a_missing_output_names_the_others() -> None:
    """The error is a KeyError, too, as before."""
    outputs = outputs_of(lambda: None, {"outputs": {"model": {"uri": "s3://b/m"}}})  # type: ignore[arg-type,return-value]

    with pytest.raises(errors.OutputNotFound, match=r"^the run has no output modl\. Did you mean model"):
        outputs["modl"]
    with pytest.raises(KeyError, match="Outputs: model"):
        outputs["x"]
    assert outputs.get("x") is None


def test_a_notebook_shows_the_manifest() -> None:
    """The representation is YAML, escaped."""
    html = job(parameters={"text": "<b>"})._repr_html_()

    assert "&lt;b&gt;" in html
    assert "kind: TrainingJob" in html


def test_every_public_name_exists() -> None:
    """Each name of the package can be imported, and is in the list that editors read."""
    source = (Path(ultramarine.__file__)).read_text()
    for name in ultramarine.__all__:
        assert getattr(ultramarine, name)
        assert f" as {name}\n" in source


def test_yaml_is_plain() -> None:
    """The text has no tags of Python."""
    assert "!" not in job(source={"path": Path("x")}).to_yaml()
    assert yaml.safe_load(job().to_yaml()) == job().manifest()


def test_documented_errors_can_be_imported() -> None:
    """The table of docs/sdk.md names the errors of ultramarine.errors, and all of them but their root."""
    page = (Path(__file__).parents[2] / "docs" / "sdk.md").read_text().partition("\n## Errors\n")[2]
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    names = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert names == {*errors.__all__} - {"UltramarineError"}
    assert all(issubclass(getattr(errors, name), errors.UltramarineError) for name in names)
