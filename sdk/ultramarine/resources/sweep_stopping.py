"""When a Sweep ends a trial that promises little: the schema of spec.earlyTermination."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field
from ultramarine_contract.common import LARGEST

from .base import Schema, rule, rules


def _only_for(field: str, *types: str) -> dict[str, str]:
    known = ", ".join(f"'{each}'" for each in types)
    names = " and ".join(types) if len(types) < 3 else ", ".join(types[:-1]) + " and " + types[-1]
    return rule(f"!has(self.{field}) || self.type in [{known}]", f"{field} is for type {names}; leave it out")


class EarlyTermination(Schema):
    """When a trial is ended before its time; steps are those that the command prints (step=) beside the metric."""

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
            rule("self.type != 'hyperband' || has(self.maxSteps)", "hyperband needs maxSteps: its brackets end there"),
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
                "truncation needs truncationPercentage: how many of a hundred trials end",
            ),
        )
    )

    type: Literal["asha", "hyperband", "median", "bandit", "truncation"] = Field(
        description="asha: at minSteps, and at each reductionFactor times as many, only the best of reductionFactor go "
        "on. hyperband: the same, in brackets that begin at different steps. median: who is worse than the median of "
        "the others' means ends. bandit: who is worse than the best by more than the slack ends. truncation: of all "
        "that run, the worst percentage ends."
    )
    min_steps: int | None = Field(
        default=None, ge=1, le=LARGEST, description="The step of the first decision; 1 if left out."
    )
    max_steps: int | None = Field(
        default=None, ge=1, le=LARGEST, description="The step at which a trial has run to its end."
    )
    reduction_factor: int | None = Field(
        default=None, ge=2, le=16, description="One in so many goes on; 3 if left out."
    )
    slack_factor: float | None = Field(
        default=None, description="How much worse than the best a trial may be, as a share of it."
    )
    slack_amount: float | None = Field(
        default=None, description="How much worse than the best a trial may be, as a number."
    )
    truncation_percentage: int | None = Field(
        default=None, ge=1, le=99, description="So many of a hundred trials end at each decision."
    )
    evaluation_interval: int | None = Field(
        default=None, ge=1, le=LARGEST, description="Decisions are made at multiples of so many steps; 1 if left out."
    )
    delay_evaluation: int | None = Field(
        default=None, ge=0, le=LARGEST, description="No trial is ended before this step; 0 if left out."
    )
