"""The commands without a cluster: validate, schema, explain, init."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from ultramarine.cli.composing import assign, read_manifests
from ultramarine.files.reading import InvalidFiles

JOB = "apiVersion: ultramarine.dev/v1alpha1\nkind: TrainingJob\nmetadata: {name: churn}\nspec: {command: [a]}\n"


def ultramarine(folder: Path, *argv: str, input: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command in a folder, without a kubeconfig."""
    program = "from ultramarine.cli.main import main; main()"
    return subprocess.run(
        [sys.executable, "-c", program, *argv],
        cwd=folder,
        input=input,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": ":".join(sys.path), "KUBECONFIG": "/nowhere", "PATH": "/usr/bin:/bin"},
        check=False,
    )


def test_validate_names_problems_and_exits_with_1(tmp_path: Path) -> None:
    """Problems are lines on standard output, the sum is on standard error, and the exit code is 1."""
    (tmp_path / "job.yaml").write_text(JOB.replace("[a]", "5"))
    done = ultramarine(tmp_path, "validate", "job.yaml", "absent.yaml")

    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "absent.yaml: cannot be read: No such file or directory; correct the path or its rights",
        "job.yaml:4:17: TrainingJob/churn: spec.command: must be a list, not a number; begin entries with '- '",
    ]
    assert done.stderr == "1 object checked, 2 problems.\n"


def test_validate_accepts_what_is_valid(tmp_path: Path) -> None:
    """Valid objects give exit code 0 and nothing on standard output; other kinds give a note."""
    done = ultramarine(tmp_path, "validate", "-", input=f"{JOB}---\napiVersion: v1\nkind: Secret\n")

    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.splitlines() == [
        "Note: stdin:6:1: Secret: not a kind of Ultramarine; not checked",
        "1 object checked, 0 problems.",
    ]


def test_schema_prints_one_and_writes_all(tmp_path: Path) -> None:
    """`schema KIND` prints a schema, `schema --all -o` writes one for each kind."""
    printed = ultramarine(tmp_path, "schema", "tj")
    written = ultramarine(tmp_path, "schema", "--all", "-o", "schemas")

    assert json.loads(printed.stdout)["title"] == "TrainingJob"
    assert (tmp_path / "schemas" / "trainingjob.json").read_text() == printed.stdout
    assert written.stderr.count(".json\n") == len([*(tmp_path / "schemas").iterdir()]) >= 6
    assert ultramarine(tmp_path, "schema").stderr == "Error: schema takes a kind, or --all. Give one of the two.\n"


def test_explain_prints_a_page_or_the_nearest_name(tmp_path: Path) -> None:
    """`explain` prints a field's page; a mistyped field is an error with the nearest name."""
    page, mistyped = (ultramarine(tmp_path, "explain", f"tj.spec.{name}") for name in ("nodes", "node"))

    assert page.stdout.startswith("trainingjob.spec.nodes <whole number>")
    assert (mistyped.returncode, mistyped.stderr) == (
        1,
        "Error: trainingjob.spec has no field node; did you mean nodes?\n",
    )


def test_init_writes_a_project_once(tmp_path: Path) -> None:
    """`init` writes a valid project, and refuses to overwrite it."""
    first = ultramarine(tmp_path, "init", "churn", "--template", "xgboost")
    second = ultramarine(tmp_path, "init", "churn")

    assert first.returncode == 0
    assert first.stderr.endswith("Next: cd churn && ultramarine submit\n")
    assert ultramarine(tmp_path, "validate", "churn").returncode == 0
    assert second.returncode == 1
    assert "exists already; name another folder, or remove the file" in second.stderr


def test_apply_and_set_read_yaml_as_kubectl_does(tmp_path: Path) -> None:
    """Manifests and values of --set have kubectl's values; faults have line and column."""
    (tmp_path / "job.yaml").write_text(JOB.replace("[a]", "[a"))
    with pytest.raises(InvalidFiles, match=r"job\.yaml:4:19: a comma or a closing bracket is missing"):
        read_manifests(tmp_path / "job.yaml")
    manifest: dict[str, object] = {}
    assign(manifest, "spec.rate=1e-5")
    assign(manifest, "spec.when=yes")
    assign(manifest, "spec.text=a: b: c")

    assert manifest == {"spec": {"rate": 0.00001, "when": True, "text": "a: b: c"}}
