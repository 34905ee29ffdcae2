"""Recovery of a TrainingJob: checkpoints, elasticity, and what follows a failure."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from .base import (
    Quantity,
    Schema,
    Uri,
    rule,
    rules,
)


class Elastic(Schema):
    """Elastic training: continuing with fewer nodes."""

    min_nodes: int = Field(
        ge=1,
        le=999,
        description="Minimum number of nodes. When a pod is lost, the others restart from the newest checkpoint with"
        " at least this number; when the pod is back, all restart. Node 0 is always among them.",
    )


class Checkpoint(Schema):
    """Checkpoints: files in /mnt/checkpoints that outlive their pod."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!has(self.resumeFrom) || self.resumeFrom.endsWith('/')",
                "resumeFrom must be a checkpoint's folder that ends in a slash, such as status.lastCheckpoint.uri",
            ),
            rule(
                "!has(self.resumeFrom) || self.resume == 'Auto'",
                "resumeFrom needs resume: Auto; remove one of the two",
            ),
        )
    )

    enabled: bool = Field(default=True, description="True to keep checkpoints.")
    resume: Literal["Auto", "Never"] = Field(
        default="Auto",
        description="Start of the command. Auto: /mnt/checkpoints has the newest complete checkpoint. Never: "
        "/mnt/checkpoints is empty.",
    )
    resume_from: Uri | None = Field(
        default=None,
        description="Checkpoint of another job (its status.lastCheckpoint.uri), used until this job has its own.",
    )
    grace_period_seconds: int = Field(
        default=120,
        ge=5,
        le=3600,
        description="Time in seconds from SIGTERM to the end of the pod, for a last checkpoint and its upload.",
    )


class ExitCodes(Schema):
    """Condition on the exit code of the command."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "self.operator != 'In' || !(0 in self.values)", "values must not have 0, which means success; remove it"
            )
        )
    )

    operator: Literal["In", "NotIn"] = Field(description="Operator. In: one of values. NotIn: none of values.")
    values: list[Annotated[int, Field(ge=0, le=255)]] = Field(
        min_length=1, max_length=255, description="Exit codes.", json_schema_extra={"x-kubernetes-list-type": "set"}
    )


class FailurePolicyRule(Schema):
    """Action on a failed pod."""

    action: Literal["FailJob", "Ignore", "Count"] = Field(
        description="Action. FailJob: no more attempts. Ignore: another attempt, which does not count against "
        "backoffLimit. Count: another attempt, which counts."
    )
    on_exit_codes: ExitCodes = Field(description="Exit codes to which the rule applies.")


class PodFailurePolicy(Schema):
    """Policy on failed pods; the first matching rule applies. Evictions for lack of resources match no rule."""

    rules: list[FailurePolicyRule] = Field(min_length=1, max_length=15, description="Rules, in order.")


class OnOutOfMemory(Schema):
    """Retry with more memory after the command was killed for exceeding its memory limit."""

    factor: float = Field(default=2, ge=1.1, le=10, description="Factor by which each attempt raises the memory limit.")
    max_memory: Quantity = Field(description="Maximum memory limit; the job fails if it is not enough.")
