"""A rollout of one deployment of an OnlineEndpoint: what is asked for, and where it stands."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from .base import DnsName, Extra, Schema, rule, rules

TIME: Extra = {"format": "date-time"}
Count = Annotated[int, Field(ge=0)]
CLIENT_ERRORS = 0.05  # what is allowed if gates say nothing of 4xx


class Gates(Schema):
    """What the candidate has to keep at each step, compared with who answered beside it."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "has(self.errorRateIncrease) || has(self.p99Ratio) || has(self.agreement)"
                " || (has(self.clientErrorRateIncrease) && self.clientErrorRateIncrease < 1.0)",
                "give at least one of errorRateIncrease, clientErrorRateIncrease, p99Ratio and agreement",
            ),
        )
    )
    error_rate_increase: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="How much larger its share of answers with 5xx may be: 0.005 is half a percent of all requests.",
    )
    client_error_rate_increase: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="How much larger its share of answers with 4xx may be, without 401 and 429. "
        f"Default {CLIENT_ERRORS:g}, if any other gate is given; 1 turns it off.",
    )
    p99_ratio: float | None = Field(
        default=None, ge=1, le=100, description="How many times as long its 99th percentile may take."
    )
    agreement: float | None = Field(
        default=None,
        ge=0.01,
        le=1,
        description="The share of requests on which it shall answer as the others do: it gets copies of theirs.",
    )


class Rollout(Schema):
    """One deployment takes the requests over step by step, as long as it keeps the gates."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!has(self.gates) || size(self.steps) > 1",
                "gates compare the candidate with who answers beside it; give a step below 100, such as [10, 100]",
            ),
        )
    )
    candidate: DnsName = Field(description="The deployment that takes over; traffic gives it nothing.")
    steps: list[Annotated[int, Field(ge=1, le=100)]] = Field(
        min_length=1,
        max_length=10,
        description="Percent of the requests that it gets, one step after another.",
        json_schema_extra=rules(
            rule(
                "self.isSorted() && self.all(one, self.exists_one(other, other == one)) && 100 in self",
                "steps must rise and end with 100, such as [10, 50, 100]",
            )
        ),
    )
    step_seconds: int = Field(
        default=300, ge=1, le=86_400, description="How long each step lasts at least, from when the gateway has it."
    )
    gates: Gates | None = Field(
        default=None, description="What decides beside the time; without it only pods that fail end a rollout."
    )
    on_failure: Literal["Rollback", "Pause"] = Field(
        default="Rollback",
        description="Rollback: the others get all requests at once; Pause: everything stays as it is.",
    )


class RolloutCounters(Schema):
    """What one gateway pod had counted of one deployment when a step began."""

    pod: str = Field(default="", max_length=253, description="The gateway pod; empty where it is several together.")
    deployment: str = Field(default="", max_length=63, description="The deployment; empty for those of traffic.")
    requests: Count = Field(default=0, description="Requests that were answered.")
    errors: Count = Field(default=0, description="Those with 5xx.")
    latency: str = Field(
        default="",
        max_length=2048,
        description="How many took no longer than each bound of the gateway's histogram.",
    )
    compared: Count = Field(default=0, description="Copies of others' requests of which both answers were compared.")
    agreed: Count = Field(default=0, description="Those that were answered alike.")
    unlike: Count = Field(default=0, description="Those of which nothing could be compared.")
    client_errors: Count | None = Field(default=None, description="Requests with 4xx, without 401 and 429.")
    absent: Count = Field(default=0, description="Errors because there was no pod; they are no evidence.")


class RolloutEvidence(Schema):
    """What one gate says."""

    gate: str = Field(max_length=63, description="The gate's field in spec.rollout.gates.")
    verdict: str = Field(max_length=32, description="Passed, Failed or InsufficientData.")
    message: str = Field(max_length=1024, description="The numbers.")


class RolloutStatus(Schema):
    """Where a rollout stands."""

    phase: str = Field(max_length=32, description="Waiting, Progressing, Paused, RolledBack or Promoted.")
    reason: str = Field(default="", max_length=64, description="Why, as a word for programs.")
    message: str = Field(default="", max_length=4096, description="Why, for people.")
    identity: str = Field(
        default="", max_length=64, description="Names what is rolled out and how; another one begins anew."
    )
    step: int = Field(default=0, ge=0, le=10, description="Which step it is, from 1.")
    weight: int = Field(default=0, ge=0, le=100, description="Percent that the candidate shall have now.")
    since: str | None = Field(
        default=None, json_schema_extra=TIME, description="When every gateway pod had the step's weights."
    )
    failing_since: str | None = Field(
        default=None, json_schema_extra=TIME, description="Since when the candidate's pods fail."
    )
    checked: str | None = Field(default=None, json_schema_extra=TIME, description="Of when the evidence is.")
    evidence: list[RolloutEvidence] = Field(
        default=[], max_length=8, description="What each gate says; the numbers are written every 30 s at most."
    )
    champion: RolloutCounters | None = Field(
        default=None,
        description="What the others had shown when the last step, in which they get nothing, began; and how the "
        "candidate had answered copies of their requests until then.",
    )
    base: list[RolloutCounters] = Field(
        default=[], max_length=200, description="What is subtracted from the gateway pods' counters."
    )
