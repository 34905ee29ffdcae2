"""Base of all schemas: camelCase in the API, a limit on every value, a description of every field."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel
from ultramarine_contract.parameters import as_text

# A DNS label: a name in a path, a mount or a label of Kubernetes.
NAME_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
URI_PATTERN = r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/[^\s\\%]*$"
QUANTITY_PATTERN = r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$"
DIGEST_PATTERN = r"^sha256:[0-9a-f]{64}$"


class Schema(BaseModel):
    """Base of every schema. The API server refuses unknown fields; these models read old and new objects."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True)


def rule(expression: str, message: str) -> dict[str, str]:
    """Return a CEL rule for x-kubernetes-validations."""
    return {"rule": expression, "message": message}


Extra = dict[str, Any]  # the type of json_schema_extra


def says(message: str) -> Extra:
    """Return json_schema_extra for a field with a pattern: a refusal shows this message instead of the expression."""
    return {"x-ultramarine-says": message}


SAYS_NAME = says("must be an object's name: lower-case letters, digits, '-' and '.'")


def rules(*constraints: dict[str, str]) -> Extra:
    """Return json_schema_extra with CEL rules."""
    return {"x-kubernetes-validations": list(constraints)}


SUBDOMAIN = "[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*"  # the names of most objects
# The generator turns it into a rule on the object that holds the field.
IMMUTABLE: Extra = {"x-ultramarine-immutable": True}

# For a list of objects: the API server must not fill in defaults, which stand in the descriptions alone. kubectl can
# only replace a list as a whole, so each apply of the same manifest would see a changed list.
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
            "must be s3://BUCKET/KEY with a BUCKET of 3 to 63 characters, and no spaces, backslashes or percent signs"
        )
        | rules(
            rule(
                "!self.matches('[^:/]/([.]{0,2}/|[.]{1,2}$)')",
                "must not have an empty name, '.' or '..' between slashes",
            )
        ),
    ),
]
Digest = Annotated[
    str,
    Field(
        pattern=DIGEST_PATTERN,
        max_length=71,
        json_schema_extra=says("must be sha256: and 64 lower-case hexadecimal digits"),
    ),
]
Quantity = Annotated[
    str | int,
    Field(
        json_schema_extra={
            "x-kubernetes-int-or-string": True,
            "maxLength": 20,
            "minimum": 0,
            "pattern": QUANTITY_PATTERN,
            **says("must be a quantity such as 2, 500m or 4Gi"),
        }
    ),
]


def _text(value: Any) -> Any:
    """Return the text of a number or a boolean; pydantic refuses any other value."""
    return as_text(value) if isinstance(value, (bool, int, float)) else value


_PLAIN: Extra = {"x-kubernetes-preserve-unknown-fields": True}  # a string that may be written without quotes
MAX_PARAMETER, MAX_VARIABLE = 4096, 32768
ParameterText = Annotated[
    str,
    BeforeValidator(_text),
    Field(max_length=MAX_PARAMETER),
    WithJsonSchema(_PLAIN | {"maxLength": MAX_PARAMETER}),  # admission.yaml refuses lists and objects with a message
]
VariableText = Annotated[
    str,
    BeforeValidator(_text),
    Field(max_length=MAX_VARIABLE),
    WithJsonSchema(_PLAIN | {"maxLength": MAX_VARIABLE, "maxItems": 0, "maxProperties": 0}),
]

CANCELLED_ONCE = rules(
    rule("self || !oldSelf", "a cancelled run cannot go on; create a new object, such as with repro")
)
Cancel = Annotated[
    bool,
    Field(
        description="True to end the run for good: its pods end, and its state becomes Cancelled. What it has stored "
        "stays. It cannot be undone.",
        json_schema_extra=CANCELLED_ONCE,
    ),
]


class Resources(Schema):
    """Resources that a container reserves and may use, as in a pod."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!has(self.requests) || !has(self.limits) || self.requests.all(name, !(name in self.limits) || "
                "!quantity(string(self.requests[name])).isGreaterThan(quantity(string(self.limits[name]))))",
                "a request must not be above the limit of the same resource; lower the request, or raise the limit",
            ),
            rule(
                "!has(self.requests) || self.requests.all(name, !name.contains('/') || (has(self.limits) && "
                "name in self.limits && "
                "quantity(string(self.requests[name])).compareTo(quantity(string(self.limits[name]))) == 0))",
                "a resource such as nvidia.com/gpu cannot be shared; give it in limits, and leave it out of requests",
            ),
        )
    )

    requests: dict[str, Quantity] = Field(
        default={}, max_length=10, description="Reserved amounts, by resource: cpu, memory and others."
    )
    limits: dict[str, Quantity] = Field(
        default={}, max_length=10, description="Maximum amounts, by resource: cpu, memory, nvidia.com/gpu and others."
    )


class KeySelector(Schema):
    """One key of a Secret or ConfigMap in the same namespace."""

    name: str = Field(min_length=1, max_length=253, description="Name of the object.")
    key: str = Field(min_length=1, max_length=253, description="Key in the object.")


class EnvVarSource(Schema):
    """Source of a variable's value."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule("has(self.secretKeyRef) != has(self.configMapKeyRef)", "give one of secretKeyRef and configMapKeyRef"),
        )
    )
    secret_key_ref: KeySelector | None = Field(default=None, description="Key of a Secret.")
    config_map_key_ref: KeySelector | None = Field(default=None, description="Key of a ConfigMap.")


class EnvVar(Schema):
    """One environment variable."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            # A value has no type, so CEL sees it only behind dyn().
            rule("!(has(dyn(self).value) && has(self.valueFrom))", "give either value or valueFrom, not both"),
            rule("!self.name.startsWith('ULTRAMARINE_')", "the prefix ULTRAMARINE_ is reserved; choose another name"),
        )
    )
    name: str = Field(
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        max_length=253,
        description="Name of the variable.",
        json_schema_extra=says("must be letters, digits and '_', and must not begin with a digit"),
    )
    value: VariableText | None = Field(
        default=None, description="Value: a string, a number or a boolean. Numbers and booleans become strings."
    )
    value_from: EnvVarSource | None = Field(default=None, description="Source of the value.")


class ConditionStatus(Schema):
    """A standard Kubernetes condition."""

    type: str = Field(max_length=316, description="Type of the condition.")
    status: str = Field(json_schema_extra={"enum": ["True", "False", "Unknown"]}, description="True, False or Unknown.")
    reason: str = Field(max_length=1024, description="Reason in CamelCase, for programs.")
    message: str = Field(
        default="", max_length=32768, description="Explanation for the reader: what happened, and the remedy."
    )
    observed_generation: int = Field(
        default=0, ge=0, description="Generation of the spec that the condition describes."
    )
    last_transition_time: str = Field(
        json_schema_extra={"format": "date-time"}, description="Time of the last change of status."
    )


NOT_OBSERVED = -1  # the observedGeneration of an object that the operator has not observed yet
READY = "Ready"
UNSEEN: Extra = {  # the condition of such an object; its time is a placeholder
    "type": READY,
    "status": "Unknown",
    "reason": "Pending",
    "message": "the operator has not observed this object yet",
    "lastTransitionTime": "1970-01-01T00:00:00Z",
}


class DayUsage(Schema):
    """Usage of one day."""

    day: str = Field(max_length=10, description="Date in UTC, such as 2027-03-14.")
    cpu_seconds: float = Field(default=0.0, ge=0, description="CPU seconds on that day.")
    gpu_seconds: float = Field(default=0.0, ge=0, description="GPU seconds on that day.")
    memory_gib_seconds: float = Field(default=0.0, ge=0, description="GiB seconds of memory on that day.")


class UsageStatus(Schema):
    """Resources reserved by the object's pods, from the start of a pod's first container to its end."""

    cpu_seconds: float = Field(
        default=0.0, ge=0, description="CPU seconds: reserved, or measured if a job used more than it reserved."
    )
    gpu_seconds: float = Field(default=0.0, ge=0, description="GPU seconds.")
    memory_gib_seconds: float = Field(default=0.0, ge=0, description="GiB seconds of memory.")
    counted_until: str | None = Field(
        default=None, json_schema_extra={"format": "date-time"}, description="Time up to which the pods are counted."
    )
    days: list[DayUsage] = Field(default=[], max_length=8, description="Usage on the latest days, the newest last.")


class Status(Schema):
    """Fields of every status. A plan fills them in one by one, so a status is not frozen."""

    model_config = ConfigDict(frozen=False)

    observed_generation: int = Field(
        default=0,
        ge=NOT_OBSERVED,
        description="Generation of the spec that this status describes; -1 before the operator's first pass.",
    )
    requested_by: str = Field(
        default="",
        max_length=500,
        description="User who created the object; needs Kubernetes 1.36 or newer. Trials inherit the user of their "
        "Sweep, and versions the user of their job.",
    )
    conditions: list[ConditionStatus] = Field(
        default=[],
        max_length=20,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
        description="Standard Kubernetes conditions.",
    )


class MlflowStatus(Schema):
    """Run in MLflow."""

    run_id: str = Field(max_length=64, description="ID of the run.")
    uri: str = Field(max_length=2048, description="Page of the run, at the address by which pods reach MLflow.")


class Failure(Schema):
    """Cause of the job's failure, and the remedy."""

    reason: str = Field(max_length=256, description="Reason in CamelCase, for programs.")
    pod: str = Field(default="", max_length=253, description="Pod that caused the failure.")
    exit_code: int | None = Field(default=None, description="Exit code of the command.")
    message: str = Field(default="", max_length=4096, description="Explanation: what happened.")
    tail: str = Field(default="", max_length=8192, description="Last lines that the command printed.")
    hint: str = Field(default="", max_length=1024, description="Remedy.")


class RunStatus(Status):
    """Fields of the status of everything that runs to its end."""

    state: str = Field(
        default="",
        max_length=32,
        description="Summary of the conditions, for display: Pending, Running, Suspended, Succeeded, Failed, "
        "Cancelled, Stopped (early, by its Sweep) or Invalid.",
    )
    start_time: str | None = Field(
        default=None, json_schema_extra={"format": "date-time"}, description="Start of the first pod."
    )
    completion_time: str | None = Field(
        default=None, json_schema_extra={"format": "date-time"}, description="End of the run."
    )
    duration: str = Field(default="", max_length=32, description="Time from start to end, for display, such as 3m10s.")
    usage: UsageStatus | None = Field(default=None, description="Resources used; a trial with a job counts itself.")
