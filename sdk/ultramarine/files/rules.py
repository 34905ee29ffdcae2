"""Rules of schemas on values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from ultramarine_contract.cel import Failure, Unsupported, evaluate, parsed


def broken(rules: Iterable[dict[str, str]], value: Any) -> Iterator[str]:
    """Yield the messages of the rules that a value breaks; rules that compare with a former value are left out."""
    for rule in rules:
        if "oldSelf" in rule["rule"]:
            continue
        try:
            kept = evaluate(parsed(rule["rule"]), {"self": value})
        except Failure:
            kept = False
        except Unsupported:  # left to the API server
            continue
        if kept is not True:
            yield rule["message"]
