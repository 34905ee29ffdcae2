"""A terminal of tmux in which a test types commands, reads the screen, and records what it shows."""

from __future__ import annotations

import codecs
import json
import os
import secrets
import shlex
import subprocess
import threading
import time
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Self

import pytest
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text
from ultramarine_cluster import packages

PROMPT = "$"
COLUMNS, ROWS = 100, 30
TMUX = """
set -g status off
set -g history-limit 10000
set -g default-terminal xterm-256color
"""
# Seconds before each command, and the longest pause, in the recording.
READING, LONGEST_PAUSE = 2.0, 2.0
# Without the web font that rich would have a reader's browser fetch.
SVG = (
    CONSOLE_SVG_FORMAT[: CONSOLE_SVG_FORMAT.index("@font-face")]
    + (CONSOLE_SVG_FORMAT[CONSOLE_SVG_FORMAT.index(".{unique_id}-matrix") :])
)


@dataclass
class Recording:
    """Output of a terminal with its times, as asciinema plays it (asciicast, version 2)."""

    title: str
    events: list[tuple[float, str]] = field(default_factory=list)
    pauses: float = 0.0

    def pause(self) -> None:
        """Let a player of the recording show the screen for a moment, in which its viewer reads."""
        self.pauses += READING

    def write(self, file: Path) -> None:
        """Write the file: a line of facts, and a line for each piece of output."""
        facts = {"version": 2, "width": COLUMNS, "height": ROWS, "title": self.title, "idle_time_limit": LONGEST_PAUSE}
        start = self.events[0][0]
        lines = [facts, *([round(when - start, 3), "o", text] for when, text in self.events)]
        file.write_text("".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines))

    def read(self, pipe: Path) -> None:
        """Take what comes through a named pipe, to its end."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        with pipe.open("rb", buffering=0) as stream:
            while content := stream.read(65536):
                self.events.append((time.monotonic() + self.pauses, decoder.decode(content)))

    @property
    def text(self) -> str:
        """All output, with its control sequences."""
        return "".join(text for _, text in self.events)


@dataclass(frozen=True)
class Shown:
    """Screen of one command: the typed lines, its output, and the same with colours."""

    exit_code: int
    lines: list[str]
    colours: str

    @property
    def text(self) -> str:
        """All lines."""
        return "\n".join(self.lines)

    @property
    def broken(self) -> list[str]:
        """Lines that the terminal broke although each of their words would fit."""
        return [line for line in self.lines if len(line) > COLUMNS >= max(map(len, line.split()))]


class Terminal:
    """A shell in tmux; `setup` are lines of bash that it runs before its first prompt."""

    def __init__(self, folder: Path, setup: str, title: str = "") -> None:
        self._folder, self._setup = folder, setup
        self._tmux = ["tmux", "-L", f"ultramarine-{secrets.token_hex(4)}", "-f", str(folder / "tmux.conf")]
        self._codes, self._pipe = folder / "codes", folder / "pipe"
        self.recording = Recording(title)
        self._reader = threading.Thread(target=self.recording.read, args=(self._pipe,), daemon=True)
        self._above = 0  # lines of earlier commands

    def __enter__(self) -> Self:
        packages.ensure("tmux")
        settings = self._folder / "settings.bash"
        settings.write_text(
            f"until test -e {shlex.quote(str(self._folder / 'piped'))}; do sleep 0.1; done\n"
            f"{self._setup}\nbind 'set enable-bracketed-paste off'\nPS1='\\[\\e[1;32m\\]{PROMPT}\\[\\e[0m\\] '\n"
            f"PROMPT_COMMAND='echo $? >> {shlex.quote(str(self._codes))}'\nclear\n"
        )
        (self._folder / "tmux.conf").write_text(TMUX)
        os.mkfifo(self._pipe)
        self._reader.start()
        shell = shlex.join(["bash", "--noprofile", "--rcfile", str(settings)])
        environment = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "COLUMNS", "LINES")}
        words = ("new-session", "-d", "-x", str(COLUMNS), "-y", str(ROWS), f"exec {shell}")
        self._run(*words, environment={**environment, "LC_ALL": "C.UTF-8"})
        self._run("pipe-pane", "-o", f"exec cat > {shlex.quote(str(self._pipe))}")
        (self._folder / "piped").touch()
        self._await_prompt(1, 180)
        return self

    def __exit__(self, *error: object) -> None:
        self._run("kill-server")
        self._reader.join(60)

    def type(self, command: str, seconds: float = 600) -> Shown:
        """Type a command, wait for its end, and return what the screen shows of it."""
        number = len(self._ended())
        self.recording.pause()
        for line in command.splitlines():
            self._run("send-keys", "-l", line)
            self._run("send-keys", "Enter")
        self._await_prompt(number + 1, seconds)
        lines, colours = self._screen(), self._screen("-e")
        shown = Shown(self._ended()[-1], lines[self._above : -1], "\n".join(colours[self._above : -1]))
        self._above = len(lines) - 1
        return shown

    def _ended(self) -> list[int]:
        return list(map(int, self._codes.read_text().split())) if self._codes.exists() else []

    def _await_prompt(self, number: int, seconds: float) -> None:
        """Wait for the prompt after so many commands; tmux has then drawn all of their output."""
        deadline = time.monotonic() + seconds
        while len(self._ended()) < number or self._screen()[-1] != PROMPT:
            if time.monotonic() > deadline:
                pytest.fail(f"no prompt after {seconds:.0f} s:\n" + "\n".join(self._screen()))
            time.sleep(0.05)

    def _screen(self, *words: str) -> list[str]:
        """Return all lines down to the cursor; a line that the terminal broke is whole."""
        lines = [line.rstrip() for line in self._run("capture-pane", "-p", "-J", "-S", "-", *words).split("\n")]
        while len(lines) > 1 and not lines[-1]:
            lines.pop()
        return lines

    def _run(self, *words: str, environment: dict[str, str] | None = None) -> str:
        argv = [*self._tmux, *words]
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout


def picture(shown: list[Shown], name: str, title: str) -> str:
    """Return screens as one SVG of a window; `name` keeps its styles apart from those of other pictures."""
    text = Text.from_ansi("\n".join(screen.colours for screen in shown))
    console = Console(record=True, width=COLUMNS, file=StringIO(), force_terminal=True, color_system="truecolor")
    console.print(text, soft_wrap=False)
    return console.export_svg(title=title, code_format=SVG, unique_id=name)
