"""What all our schemas have in common: camelCase in the API, limits on everything, documented fields."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel
from ultramarine_contract.sweep_records import as_text

# A name in a path, a mount or a label: what DNS calls a label.
NAME_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
URI_PATTERN = r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/[^\s\\%]*$"
DIGEST_PATTERN = r"^sha256:[0-9a-f]{64}$"


class Schema(BaseModel):
    """The base of every schema. Unknown fields are the API server's to refuse; ours is to read old and new objects."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True)


def rule(expression: str, message: str) -> dict[str, str]:
    """A CEL rule for x-kubernetes-validations."""
    return {"rule": expression, "message": message}


Extra = dict[str, Any]  # what json_schema_extra takes


def says(message: str) -> Extra:
    """json_schema_extra for a field with a pattern: people get this sentence instead of the expression."""
    return {"x-ultramarine-says": message}


SAYS_NAME = says("must be an object's name: lower-case letters, digits, '-' and '.'")


def rules(*each: dict[str, str]) -> Extra:
    """json_schema_extra with CEL rules."""
    return {"x-kubernetes-validations": list(each)}


SUBDOMAIN = "[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*"  # what most objects' names are
IMMUTABLE: Extra = {
    "x-ultramarine-immutable": True
}  # the generator turns it into a rule on the object that holds the field

# For a list of objects. If the API server filled in their defaults, kubectl apply of the same manifest would find the
# list changed each time, since it can only replace a list as a whole. So the defaults are in the descriptions alone.
DEFAULTS_UNWRITTEN: Extra = {"x-ultramarine-defaults-unwritten": True}

DnsName = Annotated[
    str,
    Field(
        pattern=NAME_PATTERN,
        max_length=40,
        json_schema_extra=says("must be lower-case letters, digits and '-', with a letter or digit at both ends"),
    ),
]
Uri = Annotated[
    str,
    Field(
        pattern=URI_PATTERN,
        max_length=1024,
        json_schema_extra=says(
            "must be s3://BUCKET/KEY, BUCKET of 3 to 63 characters, without spaces, backslashes and percent signs"
        )
        | rules(
            rule("!self.matches('[^:/]/([.]{0,2}/|[.]{1,2}$)')", "must not have an empty name, . or .. between slashes")
        ),
    ),
]
Digest = Annotated[
    str,
    Field(
        pattern=DIGEST_PATTERN,
        max_length=71,
        json_schema_extra=says("must be sha256: and 64 hexadecimal digits in lower case"),
    ),
]
Quantity = Annotated[
    str | int,
    Field(
        json_schema_extra={
            "x-kubernetes-int-or-string": True,
            "maxLength": 20,
            "minimum": 0,
            "pattern": r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$",
            **says("must be a quantity such as 2, 500m or 4Gi"),
        }
    ),
]


def _text(value: Any) -> Any:
    """Turn a number or a boolean into its text; anything else is left for pydantic to refuse."""
    return as_text(value) if isinstance(value, (bool, int, float)) else value


_PLAIN: Extra = {"x-kubernetes-preserve-unknown-fields": True}  # a text that may be written without quotes
MAX_PARAMETER, MAX_VARIABLE = 4096, 32768
ParameterText = Annotated[
    str,
    BeforeValidator(_text),
    Field(max_length=MAX_PARAMETER),
    WithJsonSchema(_PLAIN | {"maxLength": MAX_PARAMETER}),  # admission.yaml refuses lists and objects in words
]
VariableText = Annotated[
    str,
    BeforeValidator(_text),
    Field(max_length=MAX_VARIABLE),
    WithJsonSchema(_PLAIN | {"maxLength": MAX_VARIABLE, "maxItems": 0, "maxProperties": 0}),
]


class Resources(Schema):
    """What the container asks for and may use, as in a pod."""

    requests: dict[str, Quantity] = Field(
        default={}, max_length=10, description="Reserved for it: cpu, memory, nvidia.com/gpu and the like."
    )
    limits: dict[str, Quantity] = Field(default={}, max_length=10, description="The most that it may use.")


class KeySelector(Schema):
    """One key of a Secret or ConfigMap in the same namespace."""

    name: str = Field(min_length=1, max_length=253, description="The object's name.")
    key: str = Field(min_length=1, max_length=253, description="The key in it.")


class EnvVarSource(Schema):
    """Where a variable's value comes from."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule("has(self.secretKeyRef) != has(self.configMapKeyRef)", "give one of secretKeyRef and configMapKeyRef"),
        )
    )
    secret_key_ref: KeySelector | None = Field(default=None, description="A key of a Secret.")
    config_map_key_ref: KeySelector | None = Field(default=None, description="A key of a ConfigMap.")


class EnvVar(Schema):
    """One environment variable."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            # A value has no type, so CEL sees it behind dyn() alone.
            rule("!(has(dyn(self).value) && has(self.valueFrom))", "give either value or valueFrom, not both"),
            rule("!self.name.startsWith('ULTRAMARINE_')", "names that start with ULTRAMARINE_ are the platform's own"),
        )
    )
    name: str = Field(
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        max_length=253,
        description="The variable's name.",
        json_schema_extra=says("must be letters, digits and '_', and must not begin with a digit"),
    )
    value: VariableText | None = Field(
        default=None, description="Its value: a text, or a number or a boolean, which is taken as its text."
    )
    value_from: EnvVarSource | None = Field(default=None, description="Where its value comes from.")


class ConditionStatus(Schema):
    """A standard Kubernetes condition."""

    type: str = Field(max_length=316, description="What it is about.")
    status: str = Field(json_schema_extra={"enum": ["True", "False", "Unknown"]}, description="True, False or Unknown.")
    reason: str = Field(max_length=1024, description="A word for programs.")
    message: str = Field(
        default="", max_length=32768, description="A sentence for people: what is the matter, and the remedy."
    )
    observed_generation: int = Field(default=0, ge=0, description="The generation of the spec that was judged.")
    last_transition_time: str = Field(
        json_schema_extra={"format": "date-time"}, description="When the status last changed."
    )


NOT_OBSERVED = -1  # the observedGeneration of an object that the operator has not looked at yet
READY = "Ready"
UNSEEN: Extra = {  # the condition of such an object, which has no time
    "type": READY,
    "status": "Unknown",
    "reason": "Pending",
    "message": "the operator has not looked at it yet",
    "lastTransitionTime": "1970-01-01T00:00:00Z",
}


class DayUsage(Schema):
    """Usage of one day."""

    day: str = Field(max_length=10, description="Date in UTC, such as 2027-03-14.")
    cpu_seconds: float = Field(default=0.0, ge=0, description="CPU seconds of that day.")
    gpu_seconds: float = Field(default=0.0, ge=0, description="GPU seconds of that day.")
    memory_gib_seconds: float = Field(default=0.0, ge=0, description="GiB seconds of memory of that day.")


class UsageStatus(Schema):
    """Resources that the object's pods reserved from their first container's start to their end."""

    cpu_seconds: float = Field(
        default=0.0, ge=0, description="CPU seconds: reserved, or at a job's end its measured ones if they are more."
    )
    gpu_seconds: float = Field(default=0.0, ge=0, description="GPU seconds.")
    memory_gib_seconds: float = Field(default=0.0, ge=0, description="GiB seconds of memory.")
    counted_until: str | None = Field(
        default=None, json_schema_extra={"format": "date-time"}, description="Time up to which the pods are counted."
    )
    days: list[DayUsage] = Field(default=[], max_length=8, description="Usage of the latest days, the newest last.")


class Status(Schema):
    """What every status has."""

    observed_generation: int = Field(
        default=0,
        ge=NOT_OBSERVED,
        description="The generation of the spec that this status speaks of; -1 before the operator's first look.",
    )
    requested_by: str = Field(
        default="",
        max_length=500,
        description="User who created the object, as Kubernetes 1.36 or newer records it; a sweep's trial and a "
        "job's version have the user of their maker.",
    )
    conditions: list[ConditionStatus] = Field(
        default=[],
        max_length=20,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
        description="Standard conditions.",
    )


class MlflowStatus(Schema):
    """A run in MLflow."""

    run_id: str = Field(max_length=64, description="Its id.")
    uri: str = Field(max_length=2048, description="Its page, at the address by which the pods reach MLflow.")


class RunStatus(Status):
    """What the status of everything that runs to an end has."""

    state: str = Field(
        default="",
        max_length=32,
        description="Pending, Running, Suspended, Succeeded, Failed, Stopped (early, by its sweep) or Invalid; for "
        "reading only.",
    )
    start_time: str | None = Field(
        default=None, json_schema_extra={"format": "date-time"}, description="First pod's start."
    )
    completion_time: str | None = Field(default=None, json_schema_extra={"format": "date-time"}, description="The end.")
    duration: str = Field(default="", max_length=32, description="From start to end, for people.")
    usage: UsageStatus | None = Field(default=None, description="Resources used; a trial with a job counts itself.")
