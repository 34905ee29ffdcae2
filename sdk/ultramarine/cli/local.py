"""Runs and servers on this machine: `submit --local` and `endpoints test --local`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from ultramarine_contract.errors import InvalidSpec
from ultramarine_contract.lastwords import missing_input, missing_module

from ultramarine.display.terminal import size_text

from .composing import RUNS
from .session import Session, aligned

if TYPE_CHECKING:
    from ultramarine_contract.meta import Manifest

    from ultramarine.local.training import Result

OUTPUTS = Path("outputs")
BUCKET = "s3://local/"  # stands for the namespace's folder in the storage


def run_here(session: Session, manifests: Sequence[Manifest], folder: Path) -> None:
    """Run the only job among the manifests of a file on this machine; exit with its command's code."""
    from ultramarine.local.training import train

    jobs = [manifest for manifest in manifests if manifest.get("kind") in RUNS]
    if len(jobs) != 1:
        raise InvalidSpec(f"--local runs one TrainingJob, and the file has {len(jobs)}. Split the file.")
    others = [manifest for manifest in manifests if manifest is not jobs[0]]
    result = train(jobs[0], folder, others, OUTPUTS, lambda line: session.note(f"ultramarine: {line}"))
    _show(session, result)
    sys.exit(result.code)


def _show(session: Session, result: Result) -> None:
    from ultramarine.local.packages import python

    sys.stdout.flush()
    if result.metrics:
        rows = [["METRIC", "LAST VALUE"], *([name, f"{value:g}"] for name, value in result.metrics.items())]
        session.note("\n".join(aligned(rows)))
    for name, output in result.outputs.items():
        form = f", {output.format}" if output.format else ""
        session.note(f"Output {name}: {output.uri}, {size_text(output.bytes)}{form}")
    state = f"Failed: {result.message}" if result.code else "Succeeded"
    session.note(f"{state} (exit code {result.code}, {result.seconds:.1f} s)")
    if module := missing_module(result.message):
        session.note(
            f"What to do: if {module} is not a file of your own, install its package for {python()}, or list it in"
            " spec.environment. `pip install 'ultramarine[trainer]'` installs those of the default image."
        )
    if hint := missing_input(result.message):
        session.note(f"What to do: {hint}.")


def serve_here(
    session: Session, model: Path, data: str, scoring: Path | None, port: int, allow_code_execution: bool
) -> None:
    """Serve a model on this machine: answer the rows of `data` and end or, without any, serve until Ctrl-C."""
    from ultramarine.local.serving import served
    from ultramarine.serving.reading import read_data

    with served(model, scoring, port, allow_code_execution=allow_code_execution) as server:
        if data:
            rows = read_data(data, server.signature)
            typer.echo(json.dumps(server.answer(rows), ensure_ascii=False))
            return
        session.note(f"Serving {model} at {server.url}. POST rows to {server.url}/score; Ctrl-C ends.")
        try:
            server.forward()
        except KeyboardInterrupt:
            session.note("Ended.")
