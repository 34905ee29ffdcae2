"""Meaning and remedy of the reasons that Greetings show."""

from __future__ import annotations

from ...shared.reasons import Table

TABLES = (
    Table(
        title="Greeting",
        conditions={"Ready": "The ConfigMap has the text."},
        reasons={"Ready": {"TextStored": ("The ConfigMap has the text.", "")}},
    ),
)
