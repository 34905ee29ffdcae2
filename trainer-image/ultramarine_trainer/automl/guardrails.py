"""Guardrails: weaknesses of the data that a user should know before trusting a score."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import ks_2samp
from sklearn.model_selection import cross_val_score
from sklearn.preprocessing import OrdinalEncoder
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from ultramarine_contract.automl import Guardrail

from ultramarine_trainer.automl.plan import FOLD, Plan

_IMBALANCE = 0.1  # share of the smallest class, relative to an equal share
_MISSING, _DUPLICATES = 0.2, 0.01  # shares of rows
_CARDINALITY = 100  # categories
_LEAKAGE = 0.98  # balanced accuracy or r2 of one feature
_DRIFT, _DRIFT_P = 0.1, 1e-6
_ROWS, _COLUMNS = 4000, 300  # that leakage is looked for in
_WARNING, _INFO = "warning", "info"


def data_guardrails(plan: Plan, search: pd.DataFrame) -> Iterator[Guardrail]:
    """Yield what is weak in the rows that are searched with."""
    target = plan.task.target
    if plan.classes:
        yield from _classes(plan, search[target].value_counts())
    for column in plan.columns:
        share = float(search[column.name].isna().mean())
        if share >= _MISSING:
            yield Guardrail(
                "missing", _WARNING, column.name, f"{share:.0%} of the values of {column.name} are missing."
            )
        if column.type == "categorical" and column.distinct > _CARDINALITY:
            text = f"Column {column.name} has {column.distinct:,} categories; each becomes the mean of the target."
            yield Guardrail("highCardinality", _INFO, column.name, text)
    doubles = int(search.drop(columns=[FOLD]).duplicated().sum())
    if doubles > _DUPLICATES * len(search):
        text = (
            f"{doubles:,} rows are copies of others, so scores of folds are too good. Remove them, or set data.group."
        )
        yield Guardrail("duplicateRows", _WARNING, "", text)
    yield from _leakage(plan, search)


def _classes(plan: Plan, counts: Any) -> Iterator[Guardrail]:
    target, least = plan.task.target, counts.index[-1]
    if (share := counts.iloc[-1] / counts.sum()) < _IMBALANCE * 2 / len(counts):
        text = f"Class {least} has {share:.1%} of the rows. Prefer balanced_accuracy, f1_macro or roc_auc to accuracy."
        yield Guardrail("imbalance", _WARNING, target, text)
    if tiny := int((counts < 2 * plan.task.folds).sum()):
        text = f"{tiny} classes have fewer than {2 * plan.task.folds} rows, such as {least} with {counts.iloc[-1]}."
        yield Guardrail("tinyClass", _WARNING, target, text)


def _leakage(plan: Plan, search: pd.DataFrame) -> Iterator[Guardrail]:
    """Yield features of which each predicts the target almost alone."""
    sample = search.sample(min(len(search), _ROWS), random_state=plan.task.seed)
    y = sample[plan.task.target]
    if plan.classes and (y.nunique() < 2 or y.value_counts().iloc[-1] < 3):
        sample = sample[y.map(y.value_counts()) >= 3]
        y = sample[plan.task.target]
        if y.nunique() < 2:
            return
    for column in plan.columns[:_COLUMNS]:
        if column.type == "text":
            continue
        values = sample[[column.name]]
        if column.type != "numeric":
            values = OrdinalEncoder(encoded_missing_value=-1).fit_transform(values)
        tree, scoring = (
            (DecisionTreeClassifier(max_leaf_nodes=64, random_state=0), "balanced_accuracy")
            if plan.classes
            else (DecisionTreeRegressor(max_leaf_nodes=64, random_state=0), "r2")
        )
        score = float(np.mean(cross_val_score(tree, values, y, cv=3, scoring=scoring)))
        if score >= _LEAKAGE:
            text = (
                f"Column {column.name} alone predicts {plan.task.target} ({scoring} {score:.3f}). "
                "If it is known only later, list it in features.drop."
            )
            yield Guardrail("leakage", _WARNING, column.name, text)


def split_guardrails(plan: Plan, search: pd.DataFrame, test: pd.DataFrame) -> Iterator[Guardrail]:
    """Yield how test rows differ from those that are searched with."""
    task = plan.task
    if task.group:
        text = f"All rows of a value of {task.group} lie in the same fold, or in the test rows."
        yield Guardrail("groupSplit", _INFO, task.group, text)
    if task.time:
        text = (
            f"The latest {plan.test_rows:,} rows by {task.time} are for the test. Each fold follows its training rows."
        )
        yield Guardrail("timeSplit", _INFO, task.time, text)
    for column in plan.columns_of("numeric"):
        old, new = search[column.name].dropna(), test[column.name].dropna()
        if len(old) and len(new):
            distance, p = ks_2samp(old, new)
            if distance > _DRIFT and p < _DRIFT_P:
                text = f"Column {column.name} is distributed differently in the test rows (KS distance {distance:.2f})."
                yield Guardrail("drift", _WARNING, column.name, text)
    for column in plan.columns_of("categorical"):
        unknown = float((~test[column.name].isin(search[column.name].unique())).mean())
        if unknown > _DRIFT and column.distinct <= _CARDINALITY:
            text = f"{unknown:.0%} of the test rows have values of {column.name} that no training row has."
            yield Guardrail("drift", _WARNING, column.name, text)
