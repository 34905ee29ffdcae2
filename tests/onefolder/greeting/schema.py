"""Spec and status of a Greeting."""

from __future__ import annotations

from pydantic import ConfigDict, Field
from ultramarine.resources.base import Schema, Status, rule, rules


class GreetingSpec(Schema):
    """Text of a greeting."""

    model_config = ConfigDict(
        json_schema_extra=rules(rule("self.tone != 'loud' || has(self.volume)", "a loud greeting needs volume; set it"))
    )
    text: str = Field(min_length=1, max_length=80, description="Text of the greeting.")
    tone: str = Field(
        default="plain", json_schema_extra={"enum": ["plain", "loud"]}, description="Tone in which it is read."
    )
    volume: int | None = Field(default=None, ge=1, le=11, description="Volume.")


class GreetingStatus(Status):
    """State of a Greeting."""

    length: int = Field(default=0, ge=0, description="Number of characters of the text.")
