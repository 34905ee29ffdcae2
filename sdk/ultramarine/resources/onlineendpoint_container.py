"""Own code behind an endpoint: a scoring script, or a container with a server of its own."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from .base import Schema, rule, rules, says
from .pods import Source

ENTRY_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*[.]py$"


class Scoring(Schema):
    """Scoring script: a Python file with init() and run(data), as Azure Machine Learning has it."""

    source: Source = Field(description="Source of the script and its modules.")
    entry: str = Field(
        default="score.py",
        pattern=ENTRY_PATTERN,
        max_length=255,
        description="Path of the script in the source.",
        json_schema_extra=says("must be the path of a Python file in the source, such as score.py"),
    )


Port = Annotated[
    int,
    Field(
        ge=1,
        le=65535,
        json_schema_extra=rules(
            rule("self >= 1024", "ports below 1024 need root, which containers do not have; choose a higher port")
        ),
    ),
]


Folder = Annotated[
    str,
    Field(
        max_length=253,
        pattern=r"^/[A-Za-z0-9._/-]+$",
        json_schema_extra=says("must be an absolute path of letters, digits and ._-/, such as /var/run"),
    ),
]


class ContainerPorts(Schema):
    """Ports at which the container listens, on all addresses."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule("has(self.http) || has(self.grpc)", "give http, grpc or both"),
            rule("!has(self.http) || !has(self.grpc) || self.http != self.grpc", "http and grpc must differ"),
        )
    )

    http: Port | None = Field(default=None, description="Port for HTTP/1.1: answers, streams and WebSockets.")
    grpc: Port | None = Field(default=None, description="Port for gRPC without TLS.")


class ContainerProbe(Schema):
    """Probe of the container by HTTP; without a path, the port must accept connections."""

    path: str = Field(
        default="",
        pattern=r"^(/[^ \\]*)?$",
        max_length=500,
        description="Path that answers 200 to 399. Default: a connection to the port suffices.",
        json_schema_extra=says("must be a path such as /health"),
    )
    period_seconds: int = Field(default=5, ge=1, le=3600, description="Time between two probes in seconds.")
    timeout_seconds: int = Field(default=3, ge=1, le=3600, description="Maximum time of an answer in seconds.")
    failure_threshold: int = Field(default=3, ge=1, le=1000, description="Number of failures in a row that count.")


class Container(Schema):
    """Server of the author's own image. Its model, if the deployment has one, is in /mnt/model, read-only."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "has(self.ports.http) || [has(self.readiness) && has(self.readiness.path) && self.readiness.path != '',"
                " has(self.liveness) && has(self.liveness.path) && self.liveness.path != ''].all(it, !it)",
                "a probe with a path needs ports.http; give it, or leave path out",
            ),
            rule("!has(self.api) || has(self.ports.http)", "api needs ports.http; give it, or leave api out"),
        )
    )

    image: str = Field(min_length=1, max_length=500, description="Container image.")
    command: list[Annotated[str, Field(max_length=32768)]] = Field(
        default=[], max_length=64, description="Command. Default: that of the image."
    )
    args: list[Annotated[str, Field(max_length=32768)]] = Field(
        default=[], max_length=256, description="Arguments. Default: those of the image."
    )
    ports: ContainerPorts = Field(description="Ports at which the container listens.")
    readiness: ContainerProbe = Field(
        default=ContainerProbe(), description="Probe after which the pod gets requests, and while it does."
    )
    liveness: ContainerProbe | None = Field(
        default=None, description="Probe whose failures restart the container. Default: none."
    )
    api: Literal["openai", "v2"] | None = Field(
        default=None,
        description="API of the server. openai: the gateway counts the tokens of its answers, and applies tokenLimits."
        " v2: the inputs in its metadata of the Open Inference Protocol are compared between versions. Default: none.",
    )
    startup_seconds: int = Field(
        default=600, ge=1, le=86400, description="Maximum time from the start to the first success of readiness."
    )
    user: int = Field(
        default=65532,
        ge=0,
        le=2147483647,
        description="User ID of the process; root is not possible.",
        json_schema_extra=rules(
            rule("self >= 1", "no container runs as root; choose a user ID such as 65532, and let the image allow it")
        ),
    )
    writable: list[Folder] = Field(
        default=[],
        max_length=8,
        description="Further folders in which the container may write, such as /var/run. They are empty at the start"
        " and hide what the image has there. /tmp is always writable, everything else read-only.",
        json_schema_extra=rules(
            rule(
                "self.all(path, !path.matches('/[.]{0,2}(/|$)'))",
                "a writable folder must be a whole path without '.', '..', '//' and a slash at its end",
            ),
            rule(
                "self.all(path, !path.matches('^/tmp(/|$)'))",
                "/tmp is writable already; leave it and its folders out of writable",
            ),
            rule(
                "self.all(path, !path.matches('^/(proc|sys|dev|mnt/model)(/|$)'))",
                "/proc, /sys, /dev and /mnt/model cannot be writable; choose another folder",
            ),
        )
        | {"x-kubernetes-list-type": "set"},
    )


class TokenLimits(Schema):
    """Limits of the tokens of language models, in prompts and completions, for each key or each subject of a JWT."""

    tokens_per_minute: int = Field(
        ge=1,
        le=1_000_000_000,
        description="Tokens that a key may use in a minute, at each pod of the gateway. A key that has used them gets"
        " 429 with Retry-After; requests that run already end.",
    )
