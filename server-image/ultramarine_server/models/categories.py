"""Refusal of boosters that were trained on categories of pandas, which requests do not have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ultramarine_server.errors import LoadError
from ultramarine_server.models.columns import inner

_PARTS = ("steps", "transformers_", "transformer_list")  # lists of tuples that begin with a name and a part


def refuse_categories(booster: Any, name: str) -> None:
    """Raise LoadError if a booster of XGBoost or LightGBM has categories of a data frame."""
    words = bool(getattr(booster, "pandas_categorical", None))
    types = getattr(booster, "feature_types", None)
    if words or (types is not None and "c" in types and not booster.get_categories().empty()):
        message = f"{name} was trained on categories of a data frame, which come without names here"
        raise LoadError(f"{message}; encode them as numbers before training", "ModelUnsupported")


def refuse_estimators_of_categories(estimator: Any) -> None:
    """Raise LoadError if an estimator, or a part that takes its table, was trained on such categories."""
    for part in _takers(estimator, set()):
        module = type(part).__module__
        if module.startswith("xgboost.") and hasattr(part, "get_booster"):
            refuse_categories(_fitted(part.get_booster), f"the {type(part).__name__}")
        elif module.startswith("lightgbm."):
            refuse_categories(getattr(part, "booster_", None), f"the {type(part).__name__}")


def _fitted(get_booster: Any) -> Any:
    try:
        return get_booster()
    except AttributeError:  # The libraries' NotFittedError is a subclass.
        return None


def _takers(part: Any, seen: set[int]) -> Iterator[Any]:
    """Yield each part of an estimator that takes its table once: a forged file may have cycles."""
    part = getattr(part, "best_estimator_", part)
    if id(part) in seen:
        return
    seen.add(id(part))
    yield part
    if not type(part).__module__.startswith("sklearn."):
        return
    steps = [step for _, step in getattr(part, "steps", ())]
    if not any(map(_may_make_categories, steps[:-1])):
        for taker in steps[-1:] or inner(part):
            yield from _takers(taker, seen)


def _may_make_categories(step: Any) -> bool:
    """True if a step is the user's code, which may turn values of a request into categories."""
    if isinstance(step, str):
        return False
    within = [name_and_part[1] for name in _PARTS for name_and_part in getattr(step, name, ())]
    own = not type(step).__module__.startswith("sklearn.") or getattr(step, "func", None) is not None
    return own or any(map(_may_make_categories, within))
