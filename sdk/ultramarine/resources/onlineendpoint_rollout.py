"""Canary rollout of one deployment of an OnlineEndpoint: spec and status."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from .base import DnsName, Extra, Schema, rule, rules

TIME: Extra = {"format": "date-time"}
Count = Annotated[int, Field(ge=0)]
CLIENT_ERRORS = 0.05  # the default of gates.clientErrorRateIncrease


class Gates(Schema):
    """Gates that the candidate must pass at each step, compared with the champion."""

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
        description="Maximum increase of the share of 5xx answers: 0.005 is half a percent of all requests.",
    )
    client_error_rate_increase: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description=f"Maximum increase of the share of 4xx answers, except 401 and 429. Default {CLIENT_ERRORS:g} if "
        "any other gate is given; 1 turns it off.",
    )
    p99_ratio: float | None = Field(
        default=None,
        ge=1,
        le=100,
        description="Maximum ratio of the candidate's 99th percentile latency to the champion's.",
    )
    agreement: float | None = Field(
        default=None,
        ge=0.01,
        le=1,
        description="Minimum share of requests with equal answers. The candidate gets copies of the champion's "
        "requests for this.",
    )


class Rollout(Schema):
    """Canary rollout: one deployment takes over the requests step by step as long as it meets the gates."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!has(self.gates) || size(self.steps) > 1",
                "gates compare the candidate with the champion; give a step below 100, such as [10, 100]",
            ),
        )
    )
    candidate: DnsName = Field(
        description="Deployment that takes over from the champion, "
        "which is the deployments of traffic; traffic must give the candidate nothing."
    )
    steps: list[Annotated[int, Field(ge=1, le=100)]] = Field(
        min_length=1,
        max_length=10,
        description="Percentage of requests that the candidate gets, step by step.",
        json_schema_extra=rules(
            rule(
                "self.isSorted() && self.all(one, self.exists_one(other, other == one)) && 100 in self",
                "steps must rise and end with 100, such as [10, 50, 100]",
            )
        ),
    )
    step_seconds: int = Field(
        default=300,
        ge=1,
        le=86_400,
        description="Minimum duration of each step in seconds, from the moment when all gateway pods have its weights.",
    )
    gates: Gates | None = Field(
        default=None,
        description="Conditions on the candidate beside the time. Default: only failing pods end a rollout.",
    )
    on_failure: Literal["Rollback", "Pause"] = Field(
        default="Rollback",
        description="Action if the candidate fails. Rollback: the champion gets all requests at once. Pause: the "
        "traffic stays as it is.",
    )


class RolloutCounters(Schema):
    """Counters of one gateway pod for one deployment at the start of a step."""

    pod: str = Field(default="", max_length=253, description="Gateway pod; empty for the sum of several.")
    deployment: str = Field(default="", max_length=63, description="Deployment; empty for the champion.")
    requests: Count = Field(default=0, description="Number of answered requests.")
    errors: Count = Field(default=0, description="Number of 5xx answers.")
    latency: str = Field(
        default="",
        max_length=2048,
        description="Number of answers within each bound of the gateway's latency histogram.",
    )
    compared: Count = Field(default=0, description="Number of copied requests whose two answers were compared.")
    agreed: Count = Field(default=0, description="Number of equal answers.")
    unlike: Count = Field(default=0, description="Number of copied requests whose answers could not be compared.")
    client_errors: Count | None = Field(default=None, description="Number of 4xx answers, except 401 and 429.")
    absent: Count = Field(default=0, description="Number of errors for lack of a pod; the gates ignore them.")


class RolloutEvidence(Schema):
    """Verdict of one gate."""

    gate: str = Field(max_length=63, description="Field of the gate in spec.rollout.gates.")
    verdict: str = Field(max_length=32, description="Verdict: Passed, Failed or InsufficientData.")
    message: str = Field(max_length=1024, description="Figures behind the verdict.")


class RolloutStatus(Schema):
    """Progress of a rollout."""

    phase: str = Field(max_length=32, description="Phase: Waiting, Progressing, Paused, RolledBack or Promoted.")
    reason: str = Field(default="", max_length=64, description="Reason of the phase in CamelCase, for programs.")
    message: str = Field(default="", max_length=4096, description="Explanation of the phase, for the reader.")
    identity: str = Field(
        default="",
        max_length=64,
        description="Identity of the rollout, from its candidate and its settings; a change starts a new rollout.",
    )
    step: int = Field(default=0, ge=0, le=10, description="Number of the step, from 1.")
    weight: int = Field(default=0, ge=0, le=100, description="Percentage of requests that the candidate must get now.")
    since: str | None = Field(
        default=None, json_schema_extra=TIME, description="Time at which all gateway pods had the step's weights."
    )
    failing_since: str | None = Field(
        default=None, json_schema_extra=TIME, description="Time since which the candidate's pods fail."
    )
    checked: str | None = Field(default=None, json_schema_extra=TIME, description="Time of the evidence.")
    evidence: list[RolloutEvidence] = Field(
        default=[], max_length=8, description="Verdict of each gate; the figures are written at most every 30 s."
    )
    champion: RolloutCounters | None = Field(
        default=None,
        description="Counters of the champion at the start of the last step, in which it gets no requests. "
        "They include the copies that the candidate answered until then.",
    )
    base: list[RolloutCounters] = Field(
        default=[], max_length=200, description="Counters to subtract from the gateway pods' counters."
    )
