"""The command of a wheel alone, as pipx and uv install it: no repository, no cluster, an empty folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from ultramarine_cluster.paths import REPOSITORY
from ultramarine_cluster.release import build_wheel

pytestmark = pytest.mark.slow
UV = Path(sys.executable).parent / "uv"
# Prints the help of each command in one process, and its name on standard error.
HELP = """
import sys, typer
from ultramarine.cli.main import app
def walk(command, words):
    print(*words, file=sys.stderr)
    command.main(["--help"], prog_name=" ".join(words), standalone_mode=False)
    for name, inner in getattr(command, "commands", {}).items():
        walk(inner, [*words, name])
walk(typer.main.get_command(app), ["ultramarine"])
"""


class Machine:
    """A machine without this repository: a virtual environment with the wheel, and an empty home and folder."""

    def __init__(self, folder: Path, python: Path) -> None:
        self.folder, self.python = folder, python
        self._environment = {"HOME": str(folder), "PATH": f"{python.parent}:/usr/bin:/bin", "NO_COLOR": "1"}

    def run(self, *argv: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run a program, whose exit code must be `code`."""
        done = subprocess.run(
            argv, cwd=self.folder, env=self._environment, capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == code, f"{argv}: {done.stdout}\n{done.stderr}"
        return done

    def ultramarine(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run the command."""
        return self.run(self.python.with_name("ultramarine"), *words, code=code)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a new virtual environment that has the wheel of the commit and what it requires."""
    folder = tmp_path_factory.mktemp("wheel")
    wheel = build_wheel("9.9.9", folder, 0)
    subprocess.run([UV, "venv", "-q", "--python", sys.executable, folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    words = ["-c", REPOSITORY / "constraints.txt", wheel]
    subprocess.run([UV, "pip", "install", "-q", "--python", python, *words], check=True)
    return python


@pytest.fixture
def machine(installed: Path, tmp_path: Path) -> Machine:
    """An empty folder."""
    return Machine(tmp_path, installed)


def test_each_command_has_help(machine: Machine) -> None:
    """No command imports what the wheel does not require; the program itself is of the wheel."""
    done = machine.run(machine.python, "-c", HELP)

    assert done.stdout.count("Usage: ultramarine") == len(done.stderr.splitlines()) > 40
    assert "Train, register and serve models" in machine.ultramarine("--help").stdout
    place = machine.run(machine.python, "-c", "import ultramarine; print(ultramarine.__file__)").stdout
    assert place.startswith(str(machine.python.parents[1]))


def test_the_wheel_requires_little(machine: Machine) -> None:
    """A data scientist's own environment is not filled with the packages of the images."""
    listed = subprocess.run(
        [UV, "pip", "list", "-q", "--format", "json", "--python", machine.python],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    names = {entry["name"] for entry in json.loads(listed.stdout)}

    assert len(names) <= 30
    assert names.isdisjoint({"pandas", "numpy", "kubernetes", "kopf", "scikit-learn"})


@pytest.mark.parametrize("template", ["sklearn", "torch", "xgboost", "r"])
def test_a_project_begins_offline(machine: Machine, template: str) -> None:
    """`init` writes a project, `validate` accepts it, and `submit --dry-run` prints its manifest."""
    machine.ultramarine("init", "churn", "--template", template)
    machine.ultramarine("validate", "churn")
    done = machine.ultramarine("submit", "churn/ultramarine.yaml", "--dry-run", "--name", "churn", "--cpu", "2")
    manifest = yaml.safe_load(done.stdout)

    assert (manifest["kind"], manifest["metadata"]) == ("TrainingJob", {"name": "churn"})
    assert manifest["spec"]["resources"]["requests"]["cpu"] == "2"
    assert "no server has checked this" in done.stderr


@pytest.mark.parametrize(
    ("template", "packages", "model"),
    [
        ("sklearn", ["scikit-learn", "skops"], "model.skops"),
        ("xgboost", ["xgboost-cpu", "scikit-learn"], "model.ubj"),
        ("torch", ["uv"], "model.pt2"),  # its environment has the others
    ],
)
@pytest.mark.timeout(1200)
def test_a_template_trains_here(machine: Machine, template: str, packages: list[str], model: str) -> None:
    """`submit --local` as the README says, with a Python that has only the packages that it names."""
    machine.ultramarine("init", "churn", "--template", template)
    python = machine.folder / "own" / "bin" / "python"
    subprocess.run([UV, "venv", "-q", "--python", sys.executable, python.parents[1]], check=True)
    subprocess.run([UV, "pip", "install", "-q", "--python", python, *packages], check=True)
    done = subprocess.run(
        [machine.python.with_name("ultramarine"), "submit", "--local"],
        cwd=machine.folder / "churn",
        env={
            **os.environ,  # with the certificates and the index of uv
            "HOME": str(machine.folder),
            "PATH": f"{python.parent}:/usr/bin:/bin",
            "UV_CACHE_DIR": os.environ.get("UV_CACHE_DIR", str(Path.home() / ".cache" / "uv")),  # torch has some GB
        },
        capture_output=True, text=True, check=False, timeout=1100,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert "accuracy=" in done.stdout
    assert (machine.folder / "churn" / "outputs" / "model" / model).is_file()


def test_a_template_without_its_program_says_what_to_do(machine: Machine) -> None:
    """A missing module or program of this machine has its remedy, which names no image."""
    for template, words in (
        ("sklearn", "What to do: if skops is not a file"),
        ("r", "this machine has no such program"),
    ):
        machine.ultramarine("init", template, "--template", template)
        environment = {"HOME": str(machine.folder), "PATH": str(machine.python.parent)}
        done = subprocess.run(
            [machine.python.with_name("ultramarine"), "submit", "--local"],
            cwd=machine.folder / template, env=environment, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert done.returncode == 1
        assert words in done.stderr


def test_other_commands_work_offline(machine: Machine) -> None:
    """Schemas, descriptions and completion come with the wheel."""
    assert json.loads(machine.ultramarine("schema", "tj").stdout)["title"] == "TrainingJob"
    assert machine.ultramarine("explain", "tj.spec.nodes").stdout.startswith("trainingjob.spec.nodes <whole number>")
    assert "_ULTRAMARINE_COMPLETE" in machine.ultramarine("completion", "bash").stdout
    (machine.folder / "job.yml").write_text(
        "type: command\ncommand: python train.py\nenvironment: azureml:sklearn@latest\n"
    )
    machine.ultramarine("convert", "azureml", "job.yml", "-o", "out", "--location", "s3://lake/ada")
    assert [path.suffix for path in (machine.folder / "out").iterdir()] == [".yaml"]


def test_a_fault_is_named_offline(machine: Machine) -> None:
    """An unknown field has the nearest name; a command that needs a cluster says how to name one."""
    machine.ultramarine("init", "churn")
    words = ("submit", "churn/ultramarine.yaml")

    assert "spec.nodez: unknown field; did you mean nodes?" in (
        machine.ultramarine(*words, "--dry-run", "--set", "spec.nodez=2", code=1).stderr
    )
    assert "no kubeconfig found" in machine.ultramarine(*words, code=1).stderr
