"""Preparation: a table becomes typed rows to search with, test rows and a plan, or one sentence about a mistake."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from msgspec import structs
from sklearn.model_selection import (
    GroupKFold,
    GroupShuffleSplit,
    KFold,
    StratifiedGroupKFold,
    StratifiedKFold,
    train_test_split,
)
from ultramarine_contract.automl import SEARCH_NAME, TEST_NAME, AutoMLTask, goal_of, metric_of
from ultramarine_contract.errors import listed

from ultramarine_trainer.automl.guardrails import data_guardrails, split_guardrails
from ultramarine_trainer.automl.plan import FOLD, AutoMLError, ColumnPlan, Plan, weights_of, write_plan
from ultramarine_trainer.automl.reading import MIN_ROWS, Columns, read_table
from ultramarine_trainer.automl.scoring import baseline_score

MAX_CLASSES = 1000
MAX_MISSING_TARGET = 0.5  # share of rows
_ISO = r"\d{4}-\d{2}-\d{2}(?:[T ]\d{2}:\d{2}(?::\d{2}(?:\.\d+)?)?)?"
_OTHER_DATE = r"\d{1,4}[./-]\d{1,2}[./-]\d{1,4}(?:[T ].*)?|\d{4}-\d{2}-\d{2}[T ].+"
_ID_NAME = re.compile(r"(?:^|.*[_\W])(?:id|uuid|guid|key|index)$|.*[a-z]Id$", re.IGNORECASE)
_DATE_SHARE = 0.95  # of the values of a column of dates
_TEXT_WORDS, _UNIQUE_SHARE = 3.0, 0.95


def prepare(task: AutoMLTask, data: Path, prepared: Path) -> Plan:
    """Write the rows and the plan. Raises AutoMLError for a mistake of the data or the task."""
    try:
        metric, goal = metric_of(task), goal_of(task)
    except ValueError as error:
        raise AutoMLError(str(error)) from error
    if task.task == "forecasting":
        raise AutoMLError(
            "forecasting is not supported yet. Use task regression, with the time in a column of its own."
        )
    columns = Columns()
    table = read_table(task, data, columns)
    table, classes = _with_target(task, table, columns)
    table = _features(task, table, columns)
    search, test = _split(task, table, bool(classes))
    plan = Plan(
        task,
        metric,
        goal,
        tuple(columns.plans),
        classes,
        least=int(search[task.target].value_counts().iloc[-1]) if classes else 0,
        rows=len(search),
        test_rows=len(test),
        ordered=bool(task.time),
    )
    guardrails = [*columns.guardrails, *data_guardrails(plan, search), *split_guardrails(plan, search, test)]
    y, folds = search[task.target].to_numpy(), search[FOLD].to_numpy()
    baseline = baseline_score(metric, classes, y, folds, weights_of(plan, search), ordered=plan.ordered)
    plan = structs.replace(plan, baseline=baseline, guardrails=tuple(guardrails))
    prepared.mkdir(parents=True, exist_ok=True)
    search.to_parquet(prepared / SEARCH_NAME, index=False)
    test.to_parquet(prepared / TEST_NAME, index=False)
    write_plan(plan, prepared)
    return plan


# ---- The target


def _with_target(task: AutoMLTask, table: pd.DataFrame, columns: Columns) -> tuple[pd.DataFrame, tuple[Any, ...]]:
    """Return the rows that have a target, and its classes, if it has any."""
    name = task.target
    missing = int(table[name].isna().sum())
    if missing > MAX_MISSING_TARGET * len(table):
        raise AutoMLError(
            f"column {name}, the target, is missing in {missing:,} of {len(table):,} rows. "
            "Name another target, or remove these rows."
        )
    if missing:
        table = table[table[name].notna()].reset_index(drop=True)
        columns.warn("missingTarget", name, f"{missing:,} rows without a target are left out.")
    if len(table) < MIN_ROWS:
        raise AutoMLError(f"{len(table)} rows have a target, and a search needs at least {MIN_ROWS}. Add rows.")
    distinct = int(table[name].nunique())
    if distinct == 1:
        raise AutoMLError(
            f"column {name}, the target, has the value {table[name].iloc[0]} in all {len(table):,} rows. "
            "Name a column with at least two values."
        )
    table = _with_weights(task, table)
    return _classes(task, table, distinct) if task.task == "classification" else (_numbers(task, table, columns), ())


def _with_weights(task: AutoMLTask, table: pd.DataFrame) -> pd.DataFrame:
    if not task.weight:
        return table
    weights = pd.to_numeric(table[task.weight], errors="coerce")
    if bad := int((~(weights >= 0) | np.isinf(weights)).sum()):
        raise AutoMLError(
            f"column {task.weight}, the weight, is not a number of at least 0 in {bad:,} rows. Correct these rows."
        )
    return table.assign(**{task.weight: weights.astype(float)})


def _classes(task: AutoMLTask, table: pd.DataFrame, distinct: int) -> tuple[pd.DataFrame, tuple[Any, ...]]:
    name = task.target
    if distinct > MAX_CLASSES:
        raise AutoMLError(
            f"column {name}, the target, has {distinct:,} classes, and at most {MAX_CLASSES:,} are possible. "
            "Merge classes, or use task regression."
        )
    values = table[name]
    if pd.api.types.is_float_dtype(values):
        if not (values == values.round()).all():
            if distinct > 20:
                raise AutoMLError(
                    f"column {name}, the target, has {distinct:,} fractional values. Use task regression."
                )
        else:
            values = values.astype("int64")
    elif not pd.api.types.is_numeric_dtype(values):
        booleans = all(isinstance(value, bool) for value in values)
        values = values.astype(bool) if booleans else values.astype(str)
    counts = values.value_counts()
    if singles := sorted(str(value) for value in counts.index[counts == 1]):
        raise AutoMLError(
            f"column {name}, the target, has {len(singles)} classes with one row: {listed(singles, 5)}. "
            "Remove these rows, or merge the classes."
        )
    return table.assign(**{name: values}), tuple(
        value.item() if hasattr(value, "item") else value for value in np.unique(values.to_numpy())
    )


def _numbers(task: AutoMLTask, table: pd.DataFrame, columns: Columns) -> pd.DataFrame:
    name = task.target
    numbers = pd.to_numeric(table[name], errors="coerce").astype(float)
    numbers = numbers.where(np.isfinite(numbers))
    if bad := int(numbers.isna().sum()):
        example = table[name][numbers.isna()].iloc[0]
        raise AutoMLError(
            f"column {name}, the target, is not a number in {bad:,} of {len(table):,} rows, such as {example!r}. "
            "Correct these rows, or use task classification."
        )
    return table.assign(**{name: numbers})


# ---- Features


def _features(task: AutoMLTask, table: pd.DataFrame, columns: Columns) -> pd.DataFrame:
    kept: dict[str, Any] = {}
    roles = {task.target, task.weight, task.group}
    for name in map(str, table.columns):
        if name in roles:
            kept[name] = table[name]
            continue
        values = table[name]
        if pd.api.types.is_float_dtype(values):
            values = values.where(np.isfinite(values))
        distinct, missing = int(values.nunique()), int(values.isna().sum())
        if not distinct:
            columns.warn("empty", name, f"Column {name} has no value in {len(table):,} rows; left out.")
        elif distinct == 1 and not missing:
            columns.warn("constant", name, f"Column {name} has one value in all rows; left out.", "info")
        else:
            type = task.types.get(name) or _type_of(name, values, distinct, columns)
            values = _typed(name, values, type, columns)
            if type == "id":
                columns.warn(
                    "idLike",
                    name,
                    f"Column {name} looks like an id, with {distinct:,} values; left out. "
                    "Set features.types to use it.",
                    "info",
                )
            else:
                columns.plans.append(ColumnPlan(name, type, distinct, bool(values.isna().any())))
                kept[name] = values
                continue
        if name == task.time:
            kept[name] = table[name]
    if not columns.plans:
        raise AutoMLError("no column is left to predict from. Add columns with at least two values.")
    return pd.DataFrame(kept)


def _type_of(name: str, values: pd.Series[Any], distinct: int, columns: Columns) -> str:
    if pd.api.types.is_bool_dtype(values):
        return "numeric"
    if pd.api.types.is_numeric_dtype(values):
        whole = pd.api.types.is_integer_dtype(values)
        return "id" if whole and distinct == len(values) and _ID_NAME.match(name) else "numeric"
    present = values.dropna()
    if present.map(lambda value: isinstance(value, bool)).all():
        return "numeric"
    texts = present.astype(str)
    sample = texts.sample(min(len(texts), 2000), random_state=0)
    if sample.str.fullmatch(_ISO).mean() >= _DATE_SHARE:
        return "date"
    if sample.str.fullmatch(_OTHER_DATE).mean() >= _DATE_SHARE:
        message = f"Column {name} has dates such as {sample.iloc[0]}, which are used as categories. "
        columns.warn("dateFormat", name, message + "Write them as 2026-12-31.")
        return "categorical"
    words = sample.str.count(r"\s+").mean() + 1
    if words >= _TEXT_WORDS and distinct > 20:
        return "text"
    return "id" if distinct > _UNIQUE_SHARE * len(present) and len(present) > MIN_ROWS else "categorical"


def _typed(name: str, values: pd.Series[Any], type: str, columns: Columns) -> pd.Series[Any]:
    """Return the values as their type has them; those that do not fit are missing."""
    if type == "numeric":
        numbers = pd.to_numeric(values, errors="coerce") if values.dtype != object else values.map(_number)
        return _lossy(name, values, numbers.astype(float), "a number", columns)
    if type == "date":
        texts = values.astype("str")
        valid = texts.str.fullmatch(_ISO) & pd.to_datetime(texts, errors="coerce", format="ISO8601").notna()
        return _lossy(name, values, texts.where(valid.fillna(False).astype(bool)), "a date", columns)
    return values.astype("str") if not pd.api.types.is_numeric_dtype(values) else values


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def _lossy(name: str, values: pd.Series[Any], converted: pd.Series[Any], noun: str, columns: Columns) -> pd.Series[Any]:
    lost = values.notna() & converted.isna()
    if lost.all():
        raise AutoMLError(f"column {name} has no value that is {noun}. Give it another type.")
    if count := int(lost.sum()):
        example = values[lost].iloc[0]
        columns.warn("unreadable", name, f"{count:,} values of {name} are not {noun}, such as {example}; left out.")
    return converted


# ---- Rows to search with and to test with


def _split(task: AutoMLTask, table: pd.DataFrame, classified: bool) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows to search with, with their folds, and the test rows."""
    if task.time:
        return _by_time(task, table)
    y = table[task.target]
    if task.group:
        groups = table[task.group].astype(str)
        if (count := groups.nunique()) <= task.folds:
            raise AutoMLError(
                f"column {task.group} has {count} groups, and {task.folds} folds with test rows need "
                f"{task.folds + 1}. Reduce folds."
            )
        splitter = GroupShuffleSplit(1, test_size=task.test_fraction, random_state=task.seed)
        train, rest = next(splitter.split(table, y, groups))
        if classified and (lost := sorted(map(str, set(y) - set(y.iloc[train])))):
            raise AutoMLError(
                f"class {lost[0]} of column {task.target} lies in one group of {task.group}. "
                "Add groups with this class, or remove its rows."
            )
        search, test = table.iloc[train], table.iloc[rest]
    else:
        size = max(task.test_fraction, y.nunique() / len(y)) if classified else task.test_fraction
        search, test = train_test_split(
            table, test_size=size, random_state=task.seed, stratify=y if classified else None
        )
    search, test = search.sort_index(), test.sort_index()
    folds = np.full(len(search), -1)
    for fold, (_, rows) in enumerate(_folds(task, search, classified)):
        folds[rows] = fold
    drop = [task.group] if task.group else []
    return (
        search.drop(columns=drop).assign(**{FOLD: folds}).reset_index(drop=True),
        test.drop(columns=drop).reset_index(drop=True),
    )


def _folds(task: AutoMLTask, search: pd.DataFrame, classified: bool) -> Any:
    y = search[task.target]
    if task.group:
        groups = search[task.group].astype(str)
        count = min(task.folds, groups.nunique())
        grouped = StratifiedGroupKFold if classified else GroupKFold
        return grouped(count, shuffle=True, random_state=task.seed).split(search, y, groups)
    if classified:
        count = max(min(task.folds, int(y.value_counts().max())), 2)
        return StratifiedKFold(count, shuffle=True, random_state=task.seed).split(search, y)
    return KFold(task.folds, shuffle=True, random_state=task.seed).split(search)


def _by_time(task: AutoMLTask, table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the latest rows as test rows; each fold is later than those before it, and the first block trains only."""
    when = table[task.time]
    if missing := int(when.isna().sum()):
        raise AutoMLError(f"column {task.time}, the time, is missing in {missing:,} rows. Remove these rows.")
    if not pd.api.types.is_numeric_dtype(when) and not when.astype(str).str.fullmatch(_ISO).all():
        raise AutoMLError(f"column {task.time}, the time, must have numbers or times such as 2026-12-31T10:00:00.")
    table = table.sort_values(task.time, kind="stable").reset_index(drop=True)
    end = len(table) - max(round(len(table) * task.test_fraction), 1)
    search, test = table.iloc[:end], table.iloc[end:].reset_index(drop=True)
    if search[task.target].nunique() == 1:
        raise AutoMLError(
            f"column {task.target}, the target, has the value {search[task.target].iloc[0]} in all {end:,} rows before "
            "the test rows. Add rows, or leave data.time out."
        )
    folds = np.arange(end) * (task.folds + 1) // end - 1
    return search.assign(**{FOLD: folds}), test
