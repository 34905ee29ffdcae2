"""Manifests that `submit` makes of a script: its packages, and the counts in texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ultramarine.cli import applying, composing
from ultramarine.cli.submit import without_log
from ultramarine.display.causes import remedy_of
from ultramarine.files.reading import load
from ultramarine_contract.errors import InvalidSpec, counted

PLAIN = composing.Options("", [], "", "", "", "", "", 0, [], [])


def spec_of(script: Path, **options: Any) -> tuple[dict[str, Any], list[str]]:
    """Return the spec of a script's job, and the notes."""
    notes: list[str] = []
    [job] = composing.manifests_of(script, PLAIN._replace(**options), notes.append, lambda: "s3://lake/ada/")
    return job["spec"], notes


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A script beside a requirements.txt."""
    (tmp_path / "requirements.txt").write_text(
        "# packages\nlightgbm==4.6  # fast\nhttps://x/y.whl#egg=z\nown==1 \\\n    --hash=sha256:00\n\n"
    )
    (tmp_path / "train.py").write_text("")
    return tmp_path / "train.py"


def test_packages_beside_a_script_are_installed(script: Path) -> None:
    """With a note that names the file; comments go, and a # of a URL stays."""
    spec, notes = spec_of(script)

    assert spec["environment"] == {
        "requirements": ["lightgbm==4.6", "https://x/y.whl#egg=z", "own==1 --hash=sha256:00"]
    }
    assert notes == [f"The job gets the packages of {script.parent / 'requirements.txt'}; --env chooses others."]


@pytest.mark.parametrize("options", [{"env": "tabular"}, {"image": "registry/train:1"}])
def test_other_packages_are_the_users_choice(script: Path, options: dict[str, str]) -> None:
    """--env and --image win, without a note."""
    spec, notes = spec_of(script, **options)

    assert (spec.get("environment"), notes) == ({"name": "tabular"} if "env" in options else None, [])


def test_a_run_without_a_log_says_what_its_pod_does() -> None:
    """A large environment takes a while to unpack, before the command can write a line."""
    assert without_log("TrainingJob", "churn", "Pending") == "TrainingJob churn has no log yet; it is Pending."
    assert without_log("TrainingJob", "churn", "Running").endswith("environment before the command starts.")
    assert "environment" in remedy_of("TrainingJob", "Running", "PodRunning")[0]


def test_requirements_that_name_files_stay_in_the_code(script: Path) -> None:
    """The build finds the named files beside requirements.txt."""
    (script.parent / "requirements.txt").write_text("-r base.txt\nnumpy\n")

    assert spec_of(script)[0]["environment"] == {"requirementsFile": "requirements.txt"}


@pytest.mark.parametrize("content", [None, "# nothing\n"])
def test_a_script_alone_has_the_packages_of_the_image(script: Path, content: str | None) -> None:
    """Without the file, and with an empty one."""
    (script.parent / "requirements.txt").unlink()
    if content:
        (script.parent / "requirements.txt").write_text(content)
    spec, notes = spec_of(script)

    assert ("environment" in spec, notes) == (False, [])


@pytest.mark.parametrize(("number", "text"), [(0, "0 files"), (1, "1 file"), (2, "2 files"), (1234, "1234 files")])
def test_a_count_has_the_right_plural(number: int, text: str) -> None:
    """One has no s."""
    assert counted(number, "file") == text


def test_an_applied_endpoint_has_next_commands() -> None:
    """One shows when it is ready, another one asks it; each deployment has its share."""
    assert "`ultramarine describe oe churn`" in applying.next_commands("churn")
    assert "`ultramarine endpoints test churn`" in applying.next_commands("churn")
    spec = {"deployments": [{"name": "blue"}, {"name": "green"}], "traffic": {"blue": 100}}
    assert applying.shares_of({"spec": spec}) == "blue 100 %, green 0 %"


def test_apply_names_the_commands_for_an_azure_file(tmp_path: Path) -> None:
    """The file stands in the sentence, also one that is of nobody."""
    (tmp_path / "endpoint.yml").write_text("name: churn\nauth_mode: key\n")
    (tmp_path / "other.yml").write_text("a: 1\n")
    for name, sentence in (
        ("endpoint.yml", r"endpoint.yml is an Azure ML file\. Run `ultramarine submit .*`, or convert"),
        ("other.yml", r"other.yml has no kind\. Give"),
    ):
        with pytest.raises(InvalidSpec, match=sentence):
            applying.check_kinds(load([tmp_path / name]))


def test_all_faults_are_named_before_an_upload(script: Path) -> None:
    """An option's and the file's own; another kind of Kubernetes is the server's to check."""
    [job] = composing.manifests_of(script, PLAIN._replace(register="Churn_Model"), lambda text: None, lambda: "")
    job["spec"]["comand"] = ["a"]
    with pytest.raises(InvalidSpec) as caught:
        composing.check([job, {"apiVersion": "v1", "kind": "Secret"}], script.parent)

    assert "spec.outputs.model.registerAs" in caught.value.message
    assert "spec.comand: unknown field; did you mean command?" in caught.value.message


@pytest.mark.parametrize(
    ("option", "text", "sentence"),
    [
        ("cpu", "two", r"^--cpu two is not a quantity\. Write a number such as 2 or 500m\.$"),
        ("memory", "4GB", r"^--memory 4GB is not a quantity\. Write a number such as 4Gi or 500M\.$"),
        ("name", "My_Own", r"^--name My_Own: a name has lower-case letters, digits and '-'\. Write my-own\.$"),
        ("data", ["rows=no.csv"], r"^--data rows=no\.csv: no\.csv does not exist\. Correct the path, or write"),
    ],
)
def test_a_wrong_value_is_refused_by_its_option(
    script: Path, option: str, text: str | list[str], sentence: str
) -> None:
    """In one sentence, instead of those of the fields that it becomes."""
    with pytest.raises(InvalidSpec, match=sentence):
        spec_of(script, **{option: text})


def test_a_folder_is_refused_with_a_file_to_name(tmp_path: Path) -> None:
    """A folder may have several files of jobs."""
    with pytest.raises(
        InvalidSpec, match=r"is a folder\. Name a file in it, such as .*/ultramarine\.yaml or a script\."
    ):
        spec_of(tmp_path)


def test_an_argument_of_a_script_makes_its_output(script: Path) -> None:
    """It is registered only with --register."""
    arguments = ["--out", "$(outputs.model)"]
    assert spec_of(script, arguments=arguments)[0]["outputs"] == {"model": {}}
    assert spec_of(script, arguments=arguments, register="churn")[0]["outputs"] == {"model": {"registerAs": "churn"}}
