"""Early termination of a Sweep's unpromising trials: the schema of spec.earlyTermination."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field
from ultramarine_contract.common import LARGEST

from .base import Schema, rule, rules


def _only_for(field: str, *types: str) -> dict[str, str]:
    quoted = ", ".join(f"'{type}'" for type in types)
    names = " and ".join(types) if len(types) < 3 else ", ".join(types[:-1]) + " and " + types[-1]
    return rule(f"!has(self.{field}) || self.type in [{quoted}]", f"{field} is for type {names}; leave it out")


class EarlyTermination(Schema):
    """Early termination of trials. Steps are those that the command prints (step=) beside the metric."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            _only_for("minSteps", "asha", "hyperband"),
            _only_for("maxSteps", "asha", "hyperband"),
            _only_for("reductionFactor", "asha", "hyperband"),
            _only_for("slackFactor", "bandit"),
            _only_for("slackAmount", "bandit"),
            _only_for("truncationPercentage", "truncation"),
            _only_for("evaluationInterval", "median", "bandit", "truncation"),
            _only_for("delayEvaluation", "median", "bandit", "truncation"),
            rule(
                "self.type != 'hyperband' || has(self.maxSteps)",
                "hyperband needs maxSteps, at which its brackets end; set it",
            ),
            rule(
                "!has(self.maxSteps) || self.maxSteps >= (has(self.minSteps) ? self.minSteps : 1)",
                "maxSteps must not be below minSteps",
            ),
            rule(
                "self.type != 'bandit' || has(self.slackFactor) != has(self.slackAmount)",
                "bandit needs one of slackFactor and slackAmount",
            ),
            rule("!has(self.slackFactor) || self.slackFactor > 0.0", "slackFactor must be above 0"),
            rule("!has(self.slackAmount) || self.slackAmount > 0.0", "slackAmount must be above 0"),
            rule(
                "self.type != 'truncation' || has(self.truncationPercentage)",
                "truncation needs truncationPercentage, the percentage of trials to end; set it",
            ),
        )
    )

    type: Literal["asha", "hyperband", "median", "bandit", "truncation"] = Field(
        description="Policy. asha: successive halving; at minSteps, and at each multiple by reductionFactor, the "
        "best 1/reductionFactor of the trials go on. hyperband: the same, in brackets with different "
        "first steps. median: trials below the median of the others' running means end. bandit: trials "
        "worse than the best by more than the slack end. truncation: the worst percentage of running "
        "trials ends."
    )
    min_steps: int | None = Field(default=None, ge=1, le=LARGEST, description="Step of the first decision. Default: 1.")
    max_steps: int | None = Field(
        default=None, ge=1, le=LARGEST, description="Step at which a trial has run to its end."
    )
    reduction_factor: int | None = Field(
        default=None, ge=2, le=16, description="Inverse of the share of trials that go on at each decision. Default: 3."
    )
    slack_factor: float | None = Field(
        default=None, description="Maximum distance from the best trial, as a share of its value."
    )
    slack_amount: float | None = Field(default=None, description="Maximum distance from the best trial, as a number.")
    truncation_percentage: int | None = Field(
        default=None, ge=1, le=99, description="Percentage of trials that end at each decision."
    )
    evaluation_interval: int | None = Field(
        default=None, ge=1, le=LARGEST, description="Number of steps between decisions. Default: 1."
    )
    delay_evaluation: int | None = Field(
        default=None, ge=0, le=LARGEST, description="Step before which no trial is ended. Default: 0."
    )
