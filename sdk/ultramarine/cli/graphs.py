"""Graph of a run in the terminal: layers of steps, each with its state, its time and the origin of reused results."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.text import Text

from ultramarine.runs.pipelines import StepLine, layers_of, lines_of

if TYPE_CHECKING:
    from ultramarine_contract.meta import Manifest

MAX_BOXES = 12  # of a layer; a wider one is summed up
_WIDTH = 26
_STYLES = {
    "Waiting": ("○", "dim"),
    "Running": ("●", "cyan"),
    "Succeeded": ("✔", "green"),
    "Reused": ("↻", "green"),
    "Failed": ("✘", "red"),
    "Skipped": ("·", "dim"),
}


def graph(run: Manifest, pipeline: Manifest | None) -> RenderableType:
    """Return the picture of a run; without the spec of its pipeline all steps are one layer."""
    status = run.get("status") or {}
    title = f"{run['metadata']['name']}  {status.get('state', 'Pending')}  {status.get('progress', '')}"
    rows: list[RenderableType] = [Text(title.rstrip(), style="bold")]
    lines = {line.name: line for line in lines_of(run)}
    for number, names in enumerate(layers_of(run, pipeline)):
        if number:
            rows.append(Text("  ↓", style="dim"))
        steps = [lines.get(name) or StepLine(name, "Waiting", "", "", "") for name in names]
        rows.append(_summed_up(steps) if len(steps) > MAX_BOXES else Columns([_box(step, lines) for step in steps]))
    return Group(*rows)


def _box(step: StepLine, lines: dict[str, StepLine]) -> Panel:
    symbol, style = _STYLES[step.state]
    parts = [line for name, line in lines.items() if _is_part(name, step.name)]
    ended = sum(line.state not in ("Waiting", "Running") for line in parts)
    words = [step.state, step.seconds, f"{ended}/{len(parts)}" if parts else ""]
    text = Text(" ".join(word for word in words if word), style=style)
    if step.note and not parts:
        text.append(f"\n{step.note}", style="dim")
    return Panel(text, title=Text(f"{symbol} {step.name}", style=style), title_align="left", width=_WIDTH)


def _is_part(name: str, step: str) -> bool:
    """True for a repetition of a step."""
    stem, _, number = name.rpartition("-")
    return stem == step and number.isdecimal()


def _summed_up(steps: list[StepLine]) -> Text:
    text = Text(f"  {len(steps)} steps:")
    for state, count in Counter(step.state for step in steps).items():
        symbol, style = _STYLES[state]
        text.append(f" {symbol} {count} {state}", style=style)
    return text
