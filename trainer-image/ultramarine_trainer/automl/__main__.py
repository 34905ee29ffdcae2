"""The program `ultramarine-automl prepare|trial|finish`: its task is in task.json of the folder it starts in."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ultramarine_contract.common import EXIT_DO_NOT_RETRY

from ultramarine_trainer.automl.plan import AutoMLError, read_task


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one program, and return the exit code; an AutoMLError is the last line of the log."""
    options = _parser().parse_args(arguments)
    try:
        if options.program == "prepare":
            from ultramarine_trainer.automl.prepare import prepare

            plan = prepare(read_task(), options.data, options.prepared)
            print(f"rows={plan.rows} test_rows={plan.test_rows} columns={len(plan.columns)} baseline={plan.baseline!r}")
            for guardrail in plan.guardrails:
                print(f"{guardrail.severity}: {guardrail.name}: {guardrail.message}")
        elif options.program == "trial":
            from ultramarine_trainer.automl.trial import run_trial

            run_trial(options.prepared, options.candidate, options.params)
        else:
            from ultramarine_trainer.automl.finish import finish

            finish(options.prepared, options.candidates, options.model, options.report)
    except AutoMLError as error:
        print(error, file=sys.stderr)
        return EXIT_DO_NOT_RETRY
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ultramarine_trainer.automl")
    programs = parser.add_subparsers(dest="program", required=True)
    folders = {
        "prepare": ("data", "prepared"),
        "trial": ("prepared", "candidate"),
        "finish": ("prepared", "candidates", "model", "report"),
    }
    for name, options in folders.items():
        program = programs.add_parser(name)
        for option in options:
            program.add_argument(f"--{option}", type=Path, required=True, metavar="DIR")
        if name == "trial":
            program.add_argument("params", nargs="*", metavar="NAME=VALUE")
    return parser


if __name__ == "__main__":
    sys.exit(main())
