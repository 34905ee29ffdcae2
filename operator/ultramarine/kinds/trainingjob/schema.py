"""TrainingJob: what its author writes and what the operator answers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from ...shared.schema import (
    IMMUTABLE,
    NAME_PATTERN,
    Digest,
    DnsName,
    EnvVar,
    Resources,
    Schema,
    Status,
    Uri,
    rule,
    rules,
    says,
)

KEYS_ARE_NAMES = rules(
    rule(
        f"self.all(key, key.matches('{NAME_PATTERN}') && size(key) <= 40)",
        "each key must be lower-case letters, digits and '-', at most 40 characters: it becomes a folder's name",
    )
)


class ConfigMapSource(Schema):
    """A ConfigMap with files."""

    name: str = Field(
        pattern=r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$",
        max_length=253,
        description="A ConfigMap in the same namespace; each of its keys becomes a file.",
        json_schema_extra=says("must be a ConfigMap's name: lower-case letters, digits, '-' and '.'"),
    )


class GitSource(Schema):
    """A commit of a git repository."""

    url: str = Field(
        pattern=r"^https?://[^\s@]+$",
        max_length=1024,
        description="The repository, by http or https. The namespace's network policies have to let pods reach it.",
        json_schema_extra=says("must be http:// or https://, without spaces and without a user"),
    )
    ref: str = Field(
        default="",
        pattern=r"^([A-Za-z0-9][A-Za-z0-9._/-]*)?$",
        max_length=255,
        description="A branch, a tag or a whole commit id; the default branch if left out. "
        "Only this one commit is fetched, and status.provenance.gitCommit says which.",
        json_schema_extra=says("must be a branch, a tag or a commit id of 40 hexadecimal digits"),
    )
    path: str = Field(
        default="",
        pattern=r"^([A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*)?$",
        max_length=1024,
        description="A folder of the repository, whose files are taken; all of them if left out.",
        json_schema_extra=says("must be a folder's path inside the repository, such as src/train"),
    )


class Source(Schema):
    """The code to run: inline, configMap, git or uri."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "[has(self.inline), has(self.configMap), has(self.git), has(self.uri)].filter(it, it).size() == 1",
                "give one of inline, configMap, git and uri",
            ),
            rule("!has(self.digest) || has(self.uri)", "digest is about the archive at uri; leave it out"),
            rule("!has(self.uri) || !self.uri.endsWith('/')", "uri must name one archive, not all below a prefix"),
        )
    )

    inline: dict[str, Annotated[str, Field(max_length=262144)]] | None = Field(
        default=None,
        min_length=1,
        max_length=32,
        description="File name to content; the files lie in the folder in which the command starts. 900 KB in all; "
        "above 256 KB, kubectl needs apply --server-side.",
        json_schema_extra=rules(
            rule(
                "self.all(key, key.matches('^[A-Za-z0-9._-]+$') && size(key) <= 253)",
                "each key must be a plain file name",
            ),
            rule(
                "self.all(key, key != '.' && !key.startsWith('..'))",
                "each key must be a plain file name, which does not begin with two dots",
            ),
            rule(
                "self.map(key, size(self[key])).sum() <= 900000",
                "the files together may have 900,000 characters; put larger ones into an image or an input",
            ),
        ),
    )

    config_map: ConfigMapSource | None = Field(default=None, description="Files of a ConfigMap.")
    git: GitSource | None = Field(default=None, description="Files of a git repository.")
    uri: Uri | None = Field(
        default=None,
        description="A tar archive in the object storage, plain or compressed (.tar.gz); it is unpacked into the "
        "folder in which the command starts.",
    )
    digest: Digest | None = Field(
        default=None, description="The SHA-256 that the archive must have; the job fails for any other content."
    )


class Input(Schema):
    """Data that is there before the command starts."""

    uri: Uri = Field(
        description="An object (s3://BUCKET/KEY), or all objects below a prefix that ends in a slash. "
        "It is put into /mnt/inputs/NAME."
    )


class Output(Schema):
    """A folder, /mnt/outputs/NAME, that is uploaded when the command has succeeded."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!has(self.format) || has(self.registerAs)",
                "format is about a model; set registerAs too, or leave it out",
            )
        )
    )

    register_as: DnsName | None = Field(
        default=None,
        description="Register the folder as the next version of this Model, which is made if there is none.",
    )
    format: Literal["auto", "sklearn", "onnx", "pickle", "joblib"] | None = Field(
        default=None,
        description="The model's format; auto (the default) tells it by the suffix: .skops, .onnx, .pkl, .joblib.",
    )


class TrainingJobSpec(Schema):
    """What to run, on what, and what to keep of it. It cannot be changed later, but for suspend, limits and the TTL."""

    image: str | None = Field(
        default=None,
        min_length=1,
        max_length=500,
        description="The container image; the default is the platform's trainer image, others must be built from it. "
        "Where no source is given, the command starts in the image's WORKDIR if there is code in it.",
        json_schema_extra=IMMUTABLE,
    )
    source: Source | None = Field(default=None, description="The code to run.", json_schema_extra=IMMUTABLE)
    command: list[Annotated[str, Field(max_length=32768)]] = Field(
        min_length=1,
        max_length=64,
        description="The command and its first arguments. $(params.NAME), $(inputs.NAME) and $(outputs.NAME) "
        "stand for a parameter and for the folders of an input or output.",
        json_schema_extra=IMMUTABLE | rules(rule("self[0] != ''", "command must name a program")),
    )
    args: list[Annotated[str, Field(max_length=32768)]] = Field(
        default=[], max_length=256, description="More arguments.", json_schema_extra=IMMUTABLE
    )
    parameters: dict[str, Annotated[str, Field(max_length=4096)]] = Field(
        default={},
        max_length=128,
        description="Values for $(params.NAME).",
        json_schema_extra=IMMUTABLE
        | rules(
            rule("self.all(key, key.matches('^[A-Za-z_][A-Za-z0-9_.-]*$'))", "each key must be a plain identifier")
        ),
    )
    env: list[EnvVar] = Field(
        default=[],
        max_length=128,
        description="Environment variables of the command.",
        json_schema_extra=IMMUTABLE | {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    resources: Resources = Field(
        default=Resources(), description="What the container reserves and may use.", json_schema_extra=IMMUTABLE
    )
    inputs: dict[str, Input] = Field(
        default={}, max_length=32, description="Data by name.", json_schema_extra=IMMUTABLE | KEYS_ARE_NAMES
    )
    outputs: dict[str, Output] = Field(
        default={}, max_length=16, description="Results by name.", json_schema_extra=IMMUTABLE | KEYS_ARE_NAMES
    )
    suspend: bool = Field(
        default=False, description="True ends the running pod and holds the job until it is false again."
    )
    backoff_limit: int = Field(default=3, ge=0, le=100, description="How often a failed attempt is tried again.")
    active_deadline_seconds: int | None = Field(
        default=None, ge=1, le=31536000, description="Fail the job when it has been active for this long."
    )
    ttl_seconds_after_finished: int | None = Field(
        default=None,
        ge=0,
        le=315360000,
        description="Delete the finished TrainingJob after this time; its results stay.",
    )


class OutputStatus(Schema):
    """One uploaded output."""

    uri: str = Field(max_length=2048, description="The folder in the object storage.")
    digest: Digest = Field(description="SHA-256 over the list of its files; it names the whole content.")
    bytes: int = Field(ge=0, description="The size of all its files.")
    model_version: str | None = Field(default=None, max_length=253, description="The ModelVersion made of it.")


class Metrics(Schema):
    """Numbers that the command printed as name=value."""

    latest: dict[str, float] = Field(default={}, max_length=20, description="The last value of each.")


class Failure(Schema):
    """Why the job failed, in the first failed pod's own words, and what to do."""

    reason: str = Field(max_length=256, description="A word for programs.")
    pod: str = Field(default="", max_length=253, description="The pod that failed first.")
    exit_code: int | None = Field(default=None, description="Its exit code.")
    message: str = Field(default="", max_length=4096, description="What happened.")
    tail: str = Field(default="", max_length=8192, description="The last lines that it printed.")
    hint: str = Field(default="", max_length=1024, description="What to do.")


class Provenance(Schema):
    """What exactly ran."""

    image_digest: str = Field(default="", max_length=500, description="The image, as the node resolved it.")
    source_digest: str = Field(
        default="", max_length=100, description="SHA-256 of the source: of the archive, or over its files."
    )
    git_commit: str = Field(default="", max_length=64, description="The commit of the source's repository.")


class TrainingJobStatus(Status):
    """What is known of the job."""

    state: str = Field(
        default="",
        max_length=32,
        description="Pending, Running, Suspended, Succeeded, Failed or Invalid; for reading only.",
    )
    start_time: str | None = Field(
        default=None, json_schema_extra={"format": "date-time"}, description="First pod's start."
    )
    completion_time: str | None = Field(default=None, json_schema_extra={"format": "date-time"}, description="The end.")
    duration: str = Field(default="", max_length=32, description="From start to end, for people.")
    attempts: int = Field(default=0, ge=0, description="How many pods were started.")
    pod: str = Field(default="", max_length=253, description="The newest pod.")
    outputs: dict[str, OutputStatus] = Field(default={}, max_length=16, description="The uploaded outputs.")
    model_version: str = Field(default="", max_length=1000, description="The ModelVersions made, for people.")
    metrics: Metrics | None = Field(default=None, description="Numbers that the command printed.")
    score: str = Field(default="", max_length=64, description="As many of those numbers as a column has room for.")
    failure: Failure | None = Field(default=None, description="Why it failed.")
    provenance: Provenance | None = Field(default=None, description="What exactly ran.")
