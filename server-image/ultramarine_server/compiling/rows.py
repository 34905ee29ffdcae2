"""Rows for the comparison of two models: the artifact's example, or random rows in the range of the training data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ultramarine_server.errors import LoadError
from ultramarine_server.models.columns import learned, leaves_columns
from ultramarine_server.protocol.tensors import Array

EXAMPLES = ("input_example.json", "input_example.npy")
SEED, ROWS, WORDS = 0, 1000, 20


@dataclass(frozen=True)
class Rows:
    """Table with a column for each feature, and its source."""

    table: Array
    source: str


def example(folder: Path, features: Sequence[str]) -> Rows | None:
    """Read the artifact's example: a list of rows or objects, an object with columns and data, or a .npy file.

    Return None without an example. Raises LoadError for other content.
    """
    file = next((folder / name for name in EXAMPLES if (folder / name).is_file()), None)
    if file is None:
        return None
    try:
        table = np.load(file, allow_pickle=False) if file.suffix == ".npy" else _table(file, features)
        if table.ndim not in (1, 2) or not len(table):
            raise ValueError("it has no rows")
    except (ValueError, TypeError, KeyError) as error:
        needs = "it needs a list of rows, or columns and data"
        raise LoadError(f"{file.name} of the artifact cannot be used: {error!r}; {needs}", "ExampleInvalid") from error
    return Rows(table, file.name)


def _table(file: Path, features: Sequence[str]) -> Array:
    document = json.loads(file.read_bytes())
    columns = list(features)
    if isinstance(document, dict):
        columns = [str(name) for name in document.get("columns") or features]
        document = document["data"] if "data" in document else document["inputs"]
    if document and isinstance(document[0], dict):
        columns = list(features) or list(document[0])
        document = [[row[name] for name in columns] for row in document]
    table = np.array(document, dtype=object)
    if features and columns != list(features):
        table = table[:, [columns.index(name) for name in features]]
    return table


def drawn(estimator: Any, count: int) -> Rows:
    """Draw rows of `count` features, which are the same each time."""
    table = _draw(estimator, max(count, 1), np.random.default_rng(SEED))
    return Rows(table, f"{ROWS} rows drawn around what the model has learned")


def _draw(part: Any, count: int, random: np.random.Generator) -> Array:
    part = getattr(part, "best_estimator_", part)
    if hasattr(part, "steps"):
        steps = [step for _, step in part.steps if not isinstance(step, str)]
        if any(column.datatype == "BYTES" for column in learned(part, count).values()):  # the encoder has the texts
            steps = [step for step in steps[:-1] if not leaves_columns(step)] + steps[-1:]
        return _drawn_behind(steps, count, random) if len(steps) > 1 else _draw(steps[0], count, random)
    if hasattr(part, "transformers_"):
        return _draw_columns(part, count, random)
    if hasattr(part, "categories_"):
        return np.column_stack([random.choice(np.asarray(c, dtype=object), ROWS) for c in part.categories_])
    if hasattr(part, "vocabulary_"):
        words = np.array(sorted(part.vocabulary_), dtype=object)
        return np.array([" ".join(random.choice(words, WORDS)) for _ in range(ROWS)], dtype=object)
    if splits := thresholds(part):
        return _around(splits, count, random, on_them=_is_xgboost(part))
    return _normal(part, count, random)


def _drawn_behind(steps: Sequence[Any], count: int, random: np.random.Generator) -> Array:
    """Draw rows near the thresholds of trees, if all steps before the trees can be inverted."""
    *before, last = steps
    learned = thresholds(last)
    if not learned or not all(hasattr(step, "inverse_transform") for step in before):
        return _draw(steps[0], count, random)
    table = _around(learned, int(getattr(last, "n_features_in_", count)), random, on_them=_is_xgboost(last))
    try:
        for step in reversed(before):
            table = step.inverse_transform(table)
    except Exception:  # A step may have the method and refuse it, such as an imputer without indicators.
        return _draw(steps[0], count, random)
    return np.asarray(table) if table.shape[1] == count else _draw(steps[0], count, random)


def _is_xgboost(model: Any) -> bool:
    """True if thresholds are values of the data; other libraries put a threshold between two values."""
    return type(model).__module__.startswith("xgboost")


def _draw_columns(part: Any, count: int, random: np.random.Generator) -> Array:
    table: Array = np.empty((ROWS, count), dtype=object)
    table[:] = random.standard_normal((ROWS, count))
    for name, transformer, _ in part.transformers_:
        indices = list(part._transformer_to_input_indices.get(name, ()))
        if indices and not isinstance(transformer, str):
            columns = _draw(transformer, len(indices), random)
            table[:, indices] = columns.reshape(ROWS, len(indices))
    return table


def _normal(part: Any, count: int, random: np.random.Generator) -> Array:
    """Draw rows by the mean and the width of a part, under the names that scikit-learn has for them."""
    for names in (("mean_", "scale_"), ("center_", "scale_"), ("data_min_", "data_range_"), ("theta_", "var_")):
        middle, width = (np.asarray(_number(getattr(part, name, None))) for name in names)
        if middle.ndim and middle.shape[-1] == count:
            middle = middle[random.integers(len(middle), size=ROWS)] if middle.ndim == 2 else middle
            spread = np.broadcast_to(np.atleast_2d(np.where(width > 0, width, 1.0)).max(axis=0), (count,))
            return np.asarray(middle + 2 * spread * random.standard_normal((ROWS, count)))
    for name in ("support_vectors_", "_fit_X", "cluster_centers_"):
        points = np.asarray(getattr(part, name, np.zeros(0)))
        if points.ndim == 2 and points.shape[1] == count and len(points):
            noise = random.standard_normal((ROWS, count)) * (points.std(axis=0) + 1e-3) / 2
            noise[::2] = 0  # ties are at the points themselves
            return np.asarray(points[random.integers(len(points), size=ROWS)] + noise)
    weights = np.abs(np.atleast_2d(np.asarray(getattr(part, "coef_", np.ones(count)), dtype=float)))
    weight = weights.max(axis=0) if weights.shape[-1] == count else np.ones(count)
    width = np.clip(1 / np.maximum(weight, 1e-9), 1e-3, 1e3)
    return np.asarray(width * random.standard_normal((ROWS, count)) * random.choice([1.0, 10.0], (ROWS, 1)))


def _number(value: Any) -> Any:
    return value if value is not None and not callable(value) else 0.0


def _around(learned: Mapping[int, Array], count: int, random: np.random.Generator, *, on_them: bool) -> Array:
    """Draw half of the values between neighbouring thresholds, or `on_them`, and the others in the whole range."""
    table = random.standard_normal((ROWS, count))
    for feature, values in learned.items():
        splits = np.unique(values[np.isfinite(values)])
        if not len(splits) or feature >= count:
            continue
        gaps = np.diff(splits) if len(splits) > 1 else np.array([max(abs(splits[0]), 1.0) * 1e-3])
        nearest = np.minimum(np.append(gaps, gaps[-1:]), np.append(gaps[:1], gaps))[: len(splits)]
        chosen = random.integers(len(splits), size=ROWS)
        away = nearest[chosen] * random.uniform(-0.5, 0.5, ROWS)
        near = splits[chosen] + (np.where(random.random(ROWS) < 0.5, 0.0, away) if on_them else away)
        span = max(splits[-1] - splits[0], abs(splits[0]) * 0.1, 1e-3)
        anywhere = random.uniform(splits[0] - span / 2, splits[-1] + span / 2, ROWS)
        table[:, feature] = np.where(random.random(ROWS) < 0.5, near, anywhere)
    return table


def thresholds(model: Any) -> dict[int, Array]:
    """Return the thresholds of a model's trees by feature; empty for a model without trees."""
    pairs: list[tuple[Array, Array]] = []
    model = model.get_booster() if hasattr(model, "get_booster") else getattr(model, "booster_", model)
    if hasattr(model, "trees_to_dataframe"):  # of xgboost or lightgbm
        try:
            return _of_booster(model)
        except Exception:  # A linear booster has no trees, and some dumps cannot be parsed.
            return {}
    for member in np.ravel(np.array(getattr(model, "estimators_", [model]), dtype=object)):
        if (tree := getattr(member, "tree_", None)) is not None:
            pairs.append((tree.feature, tree.threshold))
    for turn in getattr(model, "_predictors", []):
        nodes = [predictor.nodes for predictor in turn]
        pairs += [(np.where(n["is_leaf"], -1, n["feature_idx"].astype(int)), n["num_threshold"]) for n in nodes]
    return _by_feature(pairs)


def _by_feature(pairs: Sequence[tuple[Array, Array]]) -> dict[int, Array]:
    if not pairs:
        return {}
    features, splits = (np.concatenate(arrays) for arrays in zip(*pairs, strict=True))
    return {int(feature): splits[features == feature] for feature in np.unique(features[features >= 0])}


def _of_booster(booster: Any) -> dict[int, Array]:
    frame = booster.trees_to_dataframe()
    column, split = ("Feature", "Split") if "Split" in frame else ("split_feature", "threshold")
    names = booster.feature_name() if callable(getattr(booster, "feature_name", None)) else booster.feature_names
    names = names or [f"f{index}" for index in range(booster.num_features())]
    inner = frame[frame[split].notna()]
    return {
        names.index(name): group[split].to_numpy(dtype=float) for name, group in inner.groupby(column) if name in names
    }
