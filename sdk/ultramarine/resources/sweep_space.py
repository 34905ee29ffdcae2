"""Where a Sweep searches: the schema of spec.searchSpace. What CEL cannot say of it, shared/searchspace.py does."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field
from ultramarine_contract.common import LARGEST

from .base import Extra, Schema, rule, rules

MAX_TEXT = 256  # characters of a text among the values
# A text, a number or a boolean, which is no type of a schema; each of the limits is about values of one type.
_ANYTHING: Extra = {
    "x-kubernetes-preserve-unknown-fields": True,
    "maxLength": MAX_TEXT,
    "maxItems": 0,
    "maxProperties": 0,
}
_ONE_AND_WHEN: Extra = {"minProperties": 1, "maxProperties": 2}
Anything = Annotated[Any, Field(json_schema_extra=_ANYTHING)]
Whole = Annotated[int, Field(ge=-LARGEST, le=LARGEST)]
ORDERED = rule("self.min <= self.max", "min must not be above max; exchange them")


class Uniform(Schema):
    """Any number of a range, each as likely as any other."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            ORDERED,
            rule("!has(self.step) || self.step > 0.0", "step must be above 0; leave it out where any number will do"),
            rule(
                "!has(self.step) || self.min >= self.max || self.step <= self.max - self.min",
                "step must not be larger than max - min",
            ),
        )
    )

    min: float = Field(description="The least.")
    max: float = Field(description="The most.")
    step: float | None = Field(default=None, description="Only min, min + step and so on, up to max.")


class LogUniform(Schema):
    """Any number of a range of powers, such as a learning rate."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            ORDERED, rule("self.min > 0.0", "min must be above 0, for there is no logarithm of others; or use uniform")
        )
    )

    min: float = Field(description="The least, above 0.")
    max: float = Field(description="The most.")


class IntUniform(Schema):
    """Any whole number of a range, each as likely as any other."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            ORDERED,
            rule("self.min >= self.max || self.step <= self.max - self.min", "step must not be larger than max - min"),
        )
    )

    min: Whole = Field(description="The least.")
    max: Whole = Field(description="The most.")
    step: int = Field(default=1, ge=1, le=LARGEST, description="Only min, min + step and so on, up to max.")


class IntLogUniform(Schema):
    """Any whole number of a range of powers, such as a number of units."""

    model_config = ConfigDict(json_schema_extra=rules(ORDERED))

    min: int = Field(ge=1, le=LARGEST, description="The least, from 1.")
    max: int = Field(ge=1, le=LARGEST, description="The most.")


class Parameter(Schema):
    """The values that a parameter can have, in one of six ways."""

    model_config = ConfigDict(
        # CEL does not see choice, constant and when, whose values have no type: the rest is shared/searchspace.py's.
        json_schema_extra=_ONE_AND_WHEN
        | rules(
            rule(
                "[has(self.uniform), has(self.logUniform), has(self.int), has(self.logInt)].filter(it, it).size() <= 1",
                "give one of uniform, logUniform, int, logInt, choice and constant",
            )
        )
    )

    uniform: Uniform | None = Field(default=None, description="Any number from min to max.")
    log_uniform: LogUniform | None = Field(
        default=None, description="Any number from min to max, each power of it as likely as any other."
    )
    int: IntUniform | None = Field(default=None, description="Any whole number from min to max.")
    log_int: IntLogUniform | None = Field(
        default=None, description="Any whole number from min to max, each power of it as likely as any other."
    )
    choice: list[Anything] | None = Field(
        default=None,
        min_length=1,
        max_length=100,
        description=f"One of these, all texts (of at most {MAX_TEXT} characters), all numbers, or all booleans.",
    )
    constant: Anything = Field(
        default=None, description=f"Always this: a text (of at most {MAX_TEXT} characters), a number or a boolean."
    )
    when: dict[str, Annotated[list[Anything], Field(min_length=1, max_length=100)]] | None = Field(
        default=None,
        min_length=1,
        max_length=8,
        description="Other parameters, with the values that they must have for this one to exist. They must have "
        "choice, int, logInt or constant.",
    )
