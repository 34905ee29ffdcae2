"""Plan: the columns of prepared data, its metric and its folds, as all candidates use them."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
from ultramarine_contract.automl import (
    ENV_AUTOML_TASK,
    PLAN_NAME,
    SEARCH_NAME,
    TASK_NAME,
    TEST_NAME,
    AutoMLTask,
    Guardrail,
)

FOLD = "ultramarine_fold"  # column with the fold of a search row; -1 for a row that is never validated


class AutoMLError(Exception):
    """A mistake in the data or the task, in one sentence with its remedy."""


class ColumnPlan(msgspec.Struct, frozen=True):
    """Feature: its name and type, the number of its values, and if some are missing."""

    name: str
    type: str
    distinct: int
    missing: bool = False


class Plan(msgspec.Struct, frozen=True):
    """Facts about prepared data that all later programs need."""

    task: AutoMLTask
    metric: str
    goal: str
    columns: tuple[ColumnPlan, ...]
    classes: tuple[str | int | float | bool, ...] = ()  # in the order of probabilities
    least: int = 0  # rows of the smallest class that are searched with
    rows: int = 0
    test_rows: int = 0
    ordered: bool = False  # a fold is predicted by the rows of folds before it
    baseline: float = 0.0
    guardrails: tuple[Guardrail, ...] = ()

    @property
    def features(self) -> list[str]:
        return [column.name for column in self.columns]

    @property
    def is_classification(self) -> bool:
        return bool(self.classes)

    def columns_of(self, *types: str) -> list[ColumnPlan]:
        """Return the features of these types."""
        return [column for column in self.columns if column.type in types]

    @property
    def seconds_left(self) -> float:
        """Seconds until all must be registered; infinite without a deadline."""
        return self.task.deadline - time.time() if self.task.deadline else float("inf")


def write_plan(plan: Plan, folder: Path) -> None:
    """Write the plan beside prepared data."""
    (folder / PLAN_NAME).write_bytes(msgspec.json.format(msgspec.json.encode(plan)))


def read_task() -> AutoMLTask:
    """Read the task: from the variable ULTRAMARINE_AUTOML_TASK, or else from task.json. Raises AutoMLError."""
    try:
        text = os.environ.get(ENV_AUTOML_TASK) or Path(TASK_NAME).read_text()
        return AutoMLTask.from_json(text)
    except (OSError, ValueError) as error:
        raise AutoMLError(f"neither {ENV_AUTOML_TASK} nor {TASK_NAME} has a task: {error}") from error


def read_plan(folder: Path) -> Plan:
    """Read the plan of prepared data, with the deadline of this program's own task if it has one.

    Raises AutoMLError.
    """
    try:
        plan = msgspec.json.decode((folder / PLAN_NAME).read_bytes(), type=Plan)
    except (OSError, msgspec.MsgspecError) as error:
        raise AutoMLError(f"{folder} has no plan of prepared data: {error}. Run prepare first.") from error
    if not os.environ.get(ENV_AUTOML_TASK) and not Path(TASK_NAME).exists():
        return plan
    task = msgspec.structs.replace(plan.task, deadline=read_task().deadline)
    return msgspec.structs.replace(plan, task=task)


def search_rows(folder: Path) -> pd.DataFrame:
    """Return the rows that are searched with, with their folds."""
    return pd.read_parquet(folder / SEARCH_NAME)


def untouched_rows(folder: Path) -> pd.DataFrame:
    """Return the rows that no candidate has seen."""
    return pd.read_parquet(folder / TEST_NAME)


def weights_of(plan: Plan, table: pd.DataFrame) -> Any:
    """Return the weights of rows, or None."""
    return table[plan.task.weight].to_numpy(dtype=float) if plan.task.weight else None
