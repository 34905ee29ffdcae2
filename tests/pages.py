"""The code blocks of the README and docs/, with the markers in their fences.

A fence is "```LANGUAGE MARKER...". Markers of yaml blocks, of which a block without any is whole manifests:

- `file=NAME`: whole manifests as well; the commands of a tutorial read them from a file of this name.
- `values`: values of the chart.
- `of=KIND`: fields of an object of this kind; `of=KIND:PATH` fields at a dotted path in it.
- `foreign`: manifests of a kind that the platform does not install.

A block of sh with the marker `typed` is one command that a test types into a terminal.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FENCE = re.compile(r"^( *)```(\w*)([^\n`]*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A code block of a page."""

    page: str
    line: int
    language: str
    markers: tuple[str, ...]
    text: str

    @property
    def place(self) -> str:
        """Page and line, as an editor opens it."""
        return f"{self.page}:{self.line}"

    def marker(self, name: str) -> str | None:
        """Return the value of a marker, an empty text for one without a value, or None."""
        values = (marker.partition("=") for marker in self.markers)
        return next((value for key, _, value in values if key == name), None)


def pages() -> list[Path]:
    """Return the README and the pages of the site."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(path: Path) -> Iterator[Block]:
    """Yield the code blocks of a page in their order."""
    text = path.read_text()
    for match in FENCE.finditer(text):
        indent, language, markers, body = match.groups()
        line = text.count("\n", 0, match.start()) + 1
        body = re.sub(rf"^{indent}", "", body, flags=re.MULTILINE)
        page = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name
        yield Block(page, line, language, tuple(markers.split()), body)


# Printed before the output of each block of commands.
MARK = "== block"


def script(page: Path | Iterable[Block]) -> str:
    """Return the commands of a page as one script of bash, which writes the files of `file=` blocks on its way."""
    lines = ["set -euo pipefail", "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT"]
    for number, block in enumerate(blocks(page) if isinstance(page, Path) else page):
        if (name := block.marker("file")) is not None:
            lines += [
                f"mkdir -p {Path(name).parent}",
                f"cat > {name} <<'END OF FILE'",
                block.text.rstrip("\n"),
                "END OF FILE",
            ]
        elif block.language == "sh":
            lines += [f"printf '\\n{MARK} {number}\\n'", block.text.rstrip("\n")]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Typed:
    """A command that a page has its reader type, and the lines that the page shows of its output."""

    command: str
    shown: tuple[str, ...]


def typed(page: Path) -> list[Typed]:
    """Return the commands of a page's `typed` blocks."""
    commands: list[Typed] = []
    follows = False
    for block in blocks(page):
        if block.marker("typed") is not None:
            commands.append(Typed(block.text.rstrip("\n"), ()))
        elif block.language == "text" and follows:
            commands[-1] = Typed(commands[-1].command, tuple(block.text.splitlines()))
        follows = block.marker("typed") is not None
    return commands


def around_typed(page: Path) -> tuple[list[Block], list[Block]]:
    """Return the blocks of a page before its first typed command, and those after the last one."""
    every = list(blocks(page))
    places = [place for place, block in enumerate(every) if block.marker("typed") is not None]
    return every[: places[0]], every[places[-1] + 1 :]


def is_printed(line: str, printed: Iterable[str]) -> bool:
    """True if a line of a page is among printed lines.

    Runs of spaces are alike, and so are words with digits in them: ages, durations, names of pods.
    """
    words = [r"\S+" if re.search(r"\d", word) else re.escape(word) for word in line.split()]
    return any(re.fullmatch(" ".join(words), " ".join(text.split())) for text in printed)


def missing(page: Path, output: str) -> list[str]:
    """Return the lines of a page's `text` blocks that the commands before them did not print."""
    printed: dict[int, list[str]] = {}
    number = -1
    for line in output.splitlines():
        if line.startswith(MARK):
            number = int(line.removeprefix(MARK))
        printed.setdefault(number, []).append(line)
    lacking: list[str] = []
    commands = -1
    for number, block in enumerate(blocks(page)):
        commands = number if block.language == "sh" else commands
        for line in block.text.splitlines() if block.language == "text" else ():
            if not is_printed(line, printed.get(commands, [])):
                lacking.append(f"{block.place}: {line}")
    return lacking
