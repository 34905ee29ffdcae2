"""Meanings and remedies of the reasons, as a file of the SDK, for `ultramarine describe`."""

from __future__ import annotations

import json
from collections import defaultdict

from ultramarine.resources.base import RunStatus

from ..kinds import KINDS
from ..runs.reasons import RUNS
from ..shared.reasons import COMMON, Lines
from .reference import tables

PATH = "sdk/ultramarine/display/remedies.json"


def document() -> str:
    """Return the file: meaning and remedy by kind, condition and reason; those of all kinds have an empty kind."""
    runs = [kind.name for kind in KINDS if issubclass(kind.status, RunStatus)]
    kinds: dict[str, dict[str, Lines]] = defaultdict(dict)
    for _, table in tables():
        for name in [""] if table is COMMON else runs if table is RUNS else [table.title]:
            for condition, lines in table.reasons.items():
                kinds[name][condition] = {**kinds[name].get(condition, {}), **lines}
    return json.dumps(kinds, indent=1) + "\n"
