"""Repetitions of a step of a pipeline: for each entry of a list, for each partition of a dataset, or in rounds."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, WithJsonSchema

from .base import Extra, Schema, says
from .dataset import DATASET_REFERENCE

MAX_ITEMS = 1000  # entries of forEach, and rounds of while

OPEN: Extra = {"x-kubernetes-preserve-unknown-fields": True}
ListOrText = Annotated[Any, WithJsonSchema({**OPEN, "maxLength": 65536, "maxItems": MAX_ITEMS, "maxProperties": 0})]
Expression = Annotated[str, Field(min_length=1, max_length=1000)]
PartitionsReference = Annotated[
    str,
    Field(
        pattern=rf"{DATASET_REFERENCE}|^\$\(params\.[A-Za-z_][A-Za-z0-9_-]*\)$",
        max_length=81,
        json_schema_extra=says("must be DATASET@VERSION, DATASET@ALIAS, DATASET@latest or $(params.NAME)"),
    ),
]


class ForEach(Schema):
    """Repetition of a step for each entry of a list, or for each partition of a dataset; $(item) stands for the entry.

    No rule of the API server can see `items`, whose type is open: `pipeline_checks` looks for one of both.
    """

    items: ListOrText = Field(
        default=None,
        description="List, or a text: a JSON list, $(params.NAME) of type list, or $(steps.STEP.outputs.NAME), whose "
        f"folder has the list in items.json. At most {MAX_ITEMS} entries.",
    )
    partitions: PartitionsReference | None = Field(
        default=None,
        description="Version of a Dataset, or $(params.NAME) of type dataset, instead of items. Each entry is a folder "
        "such as month=2026-01 with $(item.uri), $(item.digest), $(item.key) and $(item.values.COLUMN). The version is "
        "resolved once.",
    )
    parallel: int = Field(default=10, ge=1, le=MAX_ITEMS, description="Maximum number of entries that run at a time.")


class While(Schema):
    """Repetition of a step while a condition holds; $(item) stands for the number of the round, from 0."""

    condition: Expression = Field(
        description="CEL expression that is evaluated after each round; steps.NAME is the step's last round."
    )
    max_iterations: int = Field(ge=1, le=MAX_ITEMS, description="Maximum number of rounds.")
