"""The commands of files, run against a real storage; the way through a cluster is e2e's."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result
from ultramarine.cli import data as commands
from ultramarine.cli.bars import transfer_bar
from ultramarine.cli.session import Session
from ultramarine.display.terminal import size_text
from ultramarine.storage.data import Data
from ultramarine_contract.errors import InvalidSpec
from unit.conftest import ObjectStore
from unit.test_data import data_of


class Terminal:
    """The commands, with files of one namespace."""

    def __init__(self, data: Data) -> None:
        self.app = typer.Typer()
        commands.register(self.app)
        self.session = Session()
        client: Any = SimpleNamespace(data=data, namespace="team-a", platform=data._platform)
        self.session.__dict__["client"] = client

    def run(self, *words: str) -> Result:
        result = CliRunner().invoke(self.app, ["data", *words], obj=self.session)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result


@pytest.fixture
def terminal(object_store: ObjectStore, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """The commands in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return Terminal(data_of(object_store.endpoint, bucket, object_store.secret_key))


def test_results_are_on_stdout_and_words_on_stderr(terminal: Terminal, tmp_path: Path) -> None:
    """A script can use what put and get print."""
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.csv").write_text("1")
    (tmp_path / "set" / "b.csv").write_text("22")
    done = terminal.run("put", "set")
    assert re.fullmatch(r"s3://bucket-\w+/team-a/set/\n", done.stdout)
    assert done.stderr == "Uploaded 2 files, 3 B.\n"
    again = terminal.run("put", "set")
    assert again.stderr == "Uploaded 2 files, 3 B; 2 of them were there with the same content.\n"
    assert terminal.run("ls").stdout == "set/\n"
    assert terminal.run("ls", "set").stdout == "set/a.csv\nset/b.csv\n"
    assert [file["bytes"] for file in json.loads(terminal.run("ls", "set", "-o", "json").stdout)["files"]] == [1, 2]
    assert "modified" not in json.loads(terminal.run("ls", "-o", "json").stdout)["files"][0]
    back = terminal.run("get", "set/b.csv", "c.csv")
    assert (back.stdout, back.stderr) == ("c.csv\n", "Downloaded 1 file, 2 B.\n")
    with pytest.raises(InvalidSpec, match=r"2 files, 3 B, of s3:.*/team-a/set would be deleted.*Repeat with --yes"):
        terminal.run("rm", "-r", "set")
    assert terminal.run("rm", "-r", "set", "--yes").stderr == "Deleted 2 files.\n"
    assert "No files in namespace team-a" in terminal.run("ls").stderr


def test_a_long_listing_has_sizes_and_times(terminal: Terminal, tmp_path: Path) -> None:
    """Folders have neither."""
    (tmp_path / "a.csv").write_text("x" * 1234)
    terminal.run("put", "a.csv")
    terminal.run("put", "a.csv", "deep/")
    folder, file = terminal.run("ls", "-l").stdout.splitlines()
    assert folder.split() == ["deep/"]
    assert re.fullmatch(r"1234  \d{4}-\d\d-\d\d \d\d:\d\d:\d\d  a\.csv", file)
    assert folder.index("deep") == file.index("a.csv")


def test_progress_outside_a_terminal_is_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing for a short transfer, and no control characters for a long one."""
    with transfer_bar(Session(), "Uploading") as progress:
        progress(5, 10)
        assert capsys.readouterr().err == ""
        progress._next = 0.0  # type: ignore[attr-defined]
        progress(5 * 2**20, 10 * 2**20)
    assert capsys.readouterr().err == "Uploading: 50 % of 10.0 MiB\n"


@pytest.mark.parametrize(
    ("bytes", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 30, "5.0 GiB"), (3 << 40, "3072.0 GiB")]
)
def test_sizes_are_readable(bytes: int, text: str) -> None:
    """Powers of 1024 with their names."""
    assert size_text(bytes) == text
