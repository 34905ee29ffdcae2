"""Search space of a Sweep: the schema of spec.searchSpace. The operator checks what CEL cannot express."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field
from ultramarine_contract.common import LARGEST

from .base import Extra, Schema, rule, rules

MAX_TEXT = 256  # characters of a string among the values
# A string, a number or a boolean; no schema type covers all three. Each limit applies to values of one type.
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
    """Any number of a range, uniformly distributed."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            ORDERED,
            rule("!has(self.step) || self.step > 0.0", "step must be above 0; leave it out to allow any number"),
            rule(
                "!has(self.step) || self.min >= self.max || self.step <= self.max - self.min",
                "step must not be larger than max - min",
            ),
        )
    )

    min: float = Field(description="Minimum.")
    max: float = Field(description="Maximum.")
    step: float | None = Field(
        default=None, description="Step between values: min, min + step and so on, up to max. Default: any number."
    )


class LogUniform(Schema):
    """Any number of a range, uniformly distributed on a logarithmic scale, such as a learning rate."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            ORDERED, rule("self.min > 0.0", "min must be above 0 on a logarithmic scale; raise it, or use uniform")
        )
    )

    min: float = Field(description="Minimum, above 0.")
    max: float = Field(description="Maximum.")


class IntUniform(Schema):
    """Any whole number of a range, uniformly distributed."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            ORDERED,
            rule("self.min >= self.max || self.step <= self.max - self.min", "step must not be larger than max - min"),
        )
    )

    min: Whole = Field(description="Minimum.")
    max: Whole = Field(description="Maximum.")
    step: int = Field(
        default=1, ge=1, le=LARGEST, description="Step between values: min, min + step and so on, up to max."
    )


class IntLogUniform(Schema):
    """Any whole number of a range, uniformly distributed on a logarithmic scale, such as a number of units."""

    model_config = ConfigDict(json_schema_extra=rules(ORDERED))

    min: int = Field(ge=1, le=LARGEST, description="Minimum, at least 1.")
    max: int = Field(ge=1, le=LARGEST, description="Maximum.")


class Parameter(Schema):
    """Possible values of a parameter, of one of six types."""

    model_config = ConfigDict(
        # CEL cannot read choice, constant and when, whose values have no type; the operator checks them.
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
        default=None, description="Any number from min to max, on a logarithmic scale."
    )
    int: IntUniform | None = Field(default=None, description="Any whole number from min to max.")
    log_int: IntLogUniform | None = Field(
        default=None, description="Any whole number from min to max, on a logarithmic scale."
    )
    choice: list[Anything] | None = Field(
        default=None,
        min_length=1,
        max_length=100,
        description=f"Any of these values: all strings (of at most {MAX_TEXT} characters), all numbers, or all "
        "booleans.",
    )
    constant: Anything = Field(
        default=None, description=f"The only value: a string (of at most {MAX_TEXT} characters), a number or a boolean."
    )
    when: dict[str, Annotated[list[Anything], Field(min_length=1, max_length=100)]] | None = Field(
        default=None,
        min_length=1,
        max_length=8,
        description="Condition for the parameter to exist: other parameters, with the values that they must have. "
        "They must have choice, int, logInt or constant.",
    )
