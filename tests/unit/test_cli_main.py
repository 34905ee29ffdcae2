"""The start of the command, and the end of its errors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = Path(sys.executable).parent / "ultramarine"
HEAVY = {"boto3", "botocore", "numpy", "pandas", "sklearn", "urllib3", "yaml"}
IMPORTED = """
import sys
from ultramarine.cli.main import main
sys.argv[1:] = {words}
try:
    main()
finally:
    print(*sorted({{name.partition(".")[0] for name in sys.modules}}), file=sys.stderr)
"""


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end, without a cluster."""
    environment = {**os.environ, "KUBECONFIG": "/nowhere/config"}
    return subprocess.run([COMMAND, *words], capture_output=True, text=True, check=False, env=environment)


@pytest.mark.parametrize("words", [["--help"], ["get", "--help"], ["submit", "--help"], ["data", "put", "--help"]])
def test_help_imports_no_large_library(words: list[str]) -> None:
    """A library at the top of a command's module would delay every command."""
    program = IMPORTED.format(words=words)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    modules = set(done.stderr.split())
    assert "typer" in modules
    assert not HEAVY & modules


def test_debug_shows_the_trace() -> None:
    """Without it an error is one sentence."""
    short, long = run("get", "trainingjobs"), run("get", "trainingjobs", "--debug")

    assert (short.returncode, long.returncode) == (1, 1)
    assert short.stderr.startswith("Error: ")
    assert len(short.stderr.splitlines()) == 1
    assert "Traceback" in long.stderr


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("get --outptu json", "No such option: --outptu. Did you mean --output? `ultramarine get --help`"),
        ("describe", "Missing argument 'kind'. `ultramarine describe --help`"),
        ("sbumit train.py", "No such command 'sbumit'. Did you mean 'submit'? `ultramarine --help`"),
        ("models shwo", "No such command 'shwo'. Did you mean 'show'? `ultramarine models --help`"),
        ("data ls -o xml", "Invalid value for '-o' / '--output': 'xml' is not one of 'table', 'json', 'yaml'."),
    ],
)
def test_wrong_arguments_have_one_sentence_and_a_remedy(words: str, sentence: str) -> None:
    """The nearest name and the place of the help stand in one line, without the codes of a terminal."""
    ended = run(*words.split())

    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"Error: {sentence}")
    assert ended.stderr.endswith("--help` lists what it takes.\n")
    assert len(ended.stderr.splitlines()) == 1
    assert "\x1b" not in ended.stderr


def test_a_group_without_a_command_prints_its_help() -> None:
    """The help is not an error."""
    ended = run("models")

    assert (ended.returncode, ended.stderr) == (2, "")
    assert "promote" in ended.stdout


def test_help_in_a_pipe_has_no_codes_of_a_terminal() -> None:
    """Frames and colours are for terminals."""
    assert "\x1b" not in run("get", "--help").stdout


def test_a_full_disk_has_a_remedy() -> None:
    """Files that a command writes for itself may be elsewhere than those that it was asked for."""
    ended = run("schema", "trainingjob", "-o", "/dev/full")

    assert ended.returncode == 1
    assert ended.stderr.startswith("Error: No space left on device. Free some there, or set TMPDIR")


def test_a_place_that_may_not_be_written_has_a_remedy() -> None:
    """Nobody makes files among the kernel's own files, not even root."""
    ended = run("schema", "trainingjob", "-o", "/sys/schema.json")

    assert ended.returncode == 1
    assert ended.stderr.startswith("Error: /sys/schema.json: Permission denied. Choose a place")
