"""Dataset and DatasetVersion: a name for a series of data, and one immutable version of it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, field_validator
from ultramarine_contract.sql import query_fault

from .base import (
    IMMUTABLE,
    Digest,
    DnsName,
    KeySelector,
    Resources,
    Schema,
    Status,
    Uri,
    rule,
    rules,
    says,
)
from .cron import Cron, TimeZone
from .model import ALIAS_RULES, MAX_ARTIFACTS, AliasTarget, Artifact, VersionNumber

MAX_COLUMNS = 1000  # of a declared schema
MAX_SHOWN_COLUMNS = 200  # of a status; the profile has all
MAX_VIOLATIONS, MAX_EXAMPLES, MAX_EXAMPLE = 20, 5, 500
MAX_IN_USE = 200  # versions in a status

MAX_QUERY = 32768  # characters of the text of a query
DATASET_REFERENCE = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?@([a-z]([-a-z0-9]*[a-z0-9])?|[1-9][0-9]{0,8})$"
# Rules of what reads either a Dataset or content at a URI.
ONE_SOURCE = (
    rule("has(self.uri) != has(self.dataset)", "give either uri or dataset, not both"),
    rule(
        "!has(self.digest) || has(self.uri)",
        "digest applies to uri, since a version of a dataset has its own; leave digest out",
    ),
)
DatasetReference = Annotated[
    str,
    Field(
        pattern=DATASET_REFERENCE,
        max_length=81,
        json_schema_extra=says("must be DATASET@VERSION, DATASET@ALIAS or DATASET@latest, such as churn@3"),
    ),
]
DataType = Literal["file", "folder", "table"]
ColumnType = Literal["boolean", "int64", "float64", "decimal", "string", "date", "timestamp", "binary"]
ColumnName = Annotated[str, Field(min_length=1, max_length=256)]


class SqlSource(Schema):
    """Query whose result becomes a version, as Parquet files."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "has(self.connectionSecretRef) != has(self.uri)",
                "give connectionSecretRef for PostgreSQL, or uri for an SQLite file",
            )
        )
    )

    connection_secret_ref: KeySelector | None = Field(
        default=None,
        description="Secret and key with the address of a PostgreSQL database, such as "
        "postgresql://reader:PASSWORD@db.example.com:5432/crm. Only the pod of the import gets it.",
    )
    uri: Uri | None = Field(default=None, description="SQLite file in the object storage.")
    query: str = Field(
        min_length=1,
        max_length=MAX_QUERY,
        description="One SELECT statement. It runs in a read-only transaction.",
    )

    @field_validator("query")
    @classmethod
    def _reads(cls, query: str) -> str:
        if fault := query_fault(query):
            raise ValueError(fault)
        return query

    partition_by: ColumnName | None = Field(
        default=None, description="Column of the result whose values become folders, as COLUMN=VALUE. Default: none."
    )
    watermark: ColumnName | None = Field(
        default=None,
        description="Column of the result that only grows, such as updated_at. A refresh without rows beyond the last "
        "version's highest value makes no version. Default: each refresh reads the whole result.",
    )
    timeout_seconds: int = Field(
        default=3600, ge=1, le=604800, description="Maximum time in seconds of a statement in the database."
    )


class HttpsSource(Schema):
    """File at an address outside the cluster."""

    url: str = Field(
        pattern=r"^https?://[^\s]+$",
        max_length=2048,
        description="Address of one file.",
        json_schema_extra=says("must be an address such as https://data.example.com/churn.csv"),
    )
    token_secret_ref: KeySelector | None = Field(
        default=None, description="Secret and key with a bearer token. Only the pod of the import gets it."
    )


class DataSource(Schema):
    """Origin of versions outside the platform. Each refresh looks at it, and makes a version if it has changed."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "[has(self.uri), has(self.https), has(self.sql)].filter(it, it).size() == 1",
                "give one of uri, https and sql",
            )
        )
    )

    uri: Uri | None = Field(
        default=None,
        description="Object (s3://BUCKET/KEY), or all objects below a prefix that ends in a slash. Each version is a "
        "copy.",
    )
    https: HttpsSource | None = Field(default=None, description="File at an address outside the cluster.")
    sql: SqlSource | None = Field(default=None, description="Result of a query.")


class Refresh(Schema):
    """Times at which the source is looked at."""

    cron: Cron = Field(
        description="Cron expression: minute, hour, day of month, month, day of week; or @hourly, @daily, @weekly, "
        "@monthly, @yearly."
    )
    time_zone: TimeZone = Field(default="", description="Time zone of cron, such as Europe/Berlin. Default: UTC.")
    suspend: bool = Field(default=False, description="True to skip refreshes.")


class Column(Schema):
    """Requirements on a column."""

    name: ColumnName = Field(description="Name of the column.")
    type: ColumnType | None = Field(default=None, description="Type of the column. Default: any.")
    nullable: bool = Field(default=True, description="False to forbid missing values. Default: true.")
    unique: bool = Field(default=False, description="True to forbid equal values in two rows. Default: false.")
    minimum: float | None = Field(default=None, description="Smallest permitted number.")
    maximum: float | None = Field(default=None, description="Largest permitted number.")
    pattern: str | None = Field(
        default=None, max_length=512, description="Regular expression (RE2) that the whole text has to match."
    )
    values: list[Annotated[str, Field(max_length=256)]] = Field(
        default=[], max_length=200, description="Permitted values, as texts. Default: all."
    )


class TableSchema(Schema):
    """Columns of a table."""

    columns: list[Column] = Field(
        min_length=1,
        max_length=MAX_COLUMNS,
        description="Columns that a version must have, with their requirements.",
        json_schema_extra={"x-ultramarine-defaults-unwritten": True},
    )
    other_columns: Literal["Allow", "Forbid"] = Field(default="Allow", description="Columns that are not listed.")


class Expectation(Schema):
    """Condition that the rows of a table meet."""

    name: str = Field(min_length=1, max_length=63, description="Name of the condition, for messages.")
    condition: str = Field(
        min_length=1,
        max_length=2048,
        description="SQL condition over one row, such as starts <= ends. A row whose result is not true breaks it.",
    )
    tolerated_share: float = Field(
        default=0.0, ge=0, le=1, description="Share of rows that may break the condition. Default: 0."
    )


class DatasetRetention(Schema):
    """Versions to keep. Versions with an alias, or in use, are always kept."""

    model_config = ConfigDict(
        json_schema_extra=rules(rule("has(self.versions) || has(self.days)", "give versions, days or both"))
    )

    versions: int | None = Field(default=None, ge=1, le=1000, description="Maximum number of ready versions.")
    days: int | None = Field(
        default=None, ge=1, le=36500, description="Maximum age in days. The newest ready version is kept."
    )


class DatasetCard(Schema):
    """Facts to know before using the data."""

    owner: str = Field(default="", max_length=253, description="Person or team to contact about the data.")
    license: str = Field(default="", max_length=253, description="License, such as CC-BY-4.0 or internal.")
    citation: str = Field(default="", max_length=4096, description="Text by which to cite the data.")


class DatasetSpec(Schema):
    """Type, origin and requirements of a series of data."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule("!has(self.refresh) || has(self.source)", "refresh needs a source; add one, or remove refresh"),
            rule(
                "!has(self.type) || self.type == 'table' || !(has(self.schema) || has(self.expectations))",
                "schema and expectations apply to type table; remove them, or set type to table",
            ),
            rule(
                "!has(self.type) || self.type == 'table' || !has(self.source) || !has(self.source.sql)",
                "the result of a query is a table; set type to table",
            ),
        )
    )

    description: str = Field(default="", max_length=4096, description="Content of the data.")
    card: DatasetCard = Field(default=DatasetCard(), description="Facts to know before using the data.")
    type: DataType | None = Field(
        default=None,
        description="Kind of data. table: CSV, Parquet or JSON lines; versions get a profile. file: one file. folder: "
        "any files, such as images. Default: by the names of a version's files.",
    )
    source: DataSource | None = Field(
        default=None, description="Origin of versions. Default: none; versions come from uploads and jobs."
    )
    refresh: Refresh | None = Field(
        default=None,
        description="Times at which the source is looked at. Default: once, and after each edit of source.",
    )
    table_schema: TableSchema | None = Field(
        default=None, alias="schema", description="Columns of the table. Default: any."
    )
    expectations: list[Expectation] = Field(
        default=[],
        max_length=50,
        description="Conditions that the rows meet.",
        json_schema_extra={"x-ultramarine-defaults-unwritten": True},
    )
    on_violation: Literal["Quarantine", "Refuse"] = Field(
        default="Quarantine",
        description="Fate of a version that breaks schema or expectations. Quarantine: only its number leads to it, "
        "never latest. Refuse: nothing leads to it.",
    )
    aliases: dict[str, AliasTarget] = Field(
        default={},
        max_length=64,
        description="Version number by alias, such as golden: 3.",
        json_schema_extra=ALIAS_RULES,
    )
    retention: DatasetRetention | None = Field(default=None, description="Versions to keep. Default: all.")
    deletion_policy: Literal["Retain", "Delete"] = Field(
        default="Retain",
        description="Fate of a version's files after the version is deleted, by retention or by hand. Retain: the "
        "files stay. Delete: uploads, outputs of TrainingJobs and profiles are deleted, unless another version of the "
        "namespace uses them.",
    )
    resources: Resources = Field(
        default=Resources(), description="Resources of the pods that import and profile. Default: up to 1 CPU and 1Gi."
    )


class RefreshStatus(Schema):
    """Last look at the source."""

    time: str | None = Field(
        default=None, json_schema_extra={"format": "date-time"}, description="Scheduled time of the last look."
    )
    number: int = Field(default=0, ge=0, description="Number of imports so far.")
    source: str = Field(default="", max_length=64, description="Beginning of the SHA-256 of the spec's source.")
    outcome: str = Field(default="", max_length=32, description="Looking, Importing, Imported, Unchanged or Failed.")
    etag: str = Field(default="", max_length=1024, description="Mark of the source's content, if the source has one.")
    watermark: str = Field(default="", max_length=256, description="Highest value of the watermark column.")


class DatasetStatus(Status):
    """Summary of the versions, and the last refresh."""

    versions: int = Field(default=0, ge=0, description="Number of versions.")
    latest_version: str = Field(default="", max_length=9, description="Highest version number ever assigned.")
    latest_ready_version: str = Field(default="", max_length=9, description="Newest ready version: @latest.")
    aliases: str = Field(default="", max_length=4096, description="Aliases, for display.")
    in_use: dict[str, Annotated[str, Field(max_length=600)]] = Field(
        default={},
        max_length=MAX_IN_USE,
        description="Versions that cannot be deleted now, by name, with their users: unfinished runs, "
        "PipelineRuns that are pinned to them, and aliases.",
    )
    artifacts: list[Artifact] = Field(
        default=[],
        max_length=MAX_ARTIFACTS,
        description="Folders to delete with their versions, and those of deleted versions that are left; only with "
        "deletionPolicy Delete.",
    )
    refresh: RefreshStatus | None = Field(default=None, description="Last look at the source.")
    next_refresh_time: str | None = Field(
        default=None, json_schema_extra={"format": "date-time"}, description="Time of the next look at the source."
    )


class DatasetLineage(Schema):
    """Origin of a version."""

    training_job: str = Field(default="", max_length=253, description="TrainingJob that stored the files.")
    output: str = Field(default="", max_length=40, description="Output of the TrainingJob.")
    inputs: list[Annotated[str, Field(max_length=253)]] = Field(
        default=[], max_length=32, description="DatasetVersions that the TrainingJob read."
    )
    git_commit: str = Field(default="", max_length=64, description="Git commit of the code that made the files.")
    source: str = Field(default="", max_length=2048, description="Origin of an upload or an import, without secrets.")
    query: str = Field(
        default="", max_length=MAX_QUERY, description="Query whose result an import has stored, without passwords."
    )
    watermark: str = Field(
        default="", max_length=256, description="Highest value of the watermark column, for an import."
    )
    requested_by: str = Field(default="", max_length=500, description="User who requested the version.")


class DatasetVersionSpec(Schema):
    """One version of a Dataset. Nothing of it can be changed later."""

    dataset: DnsName = Field(description="Dataset that the version belongs to.", json_schema_extra=IMMUTABLE)
    version: VersionNumber = Field(description="Number of the version.", json_schema_extra=IMMUTABLE)
    uri: Uri = Field(
        description="Location of the data: a folder with a list of its files, as TrainingJobs and uploads store it "
        "(ends in a slash), or one object.",
        json_schema_extra=IMMUTABLE,
    )
    digest: Digest = Field(
        description="SHA-256 over the list of files, or of the one object; verified at every read.",
        json_schema_extra=IMMUTABLE,
    )
    lineage: DatasetLineage = Field(
        default=DatasetLineage(), description="Origin of the version.", json_schema_extra=IMMUTABLE
    )


class ColumnStatus(Schema):
    """Column of a table, as its profile has it."""

    name: str = Field(max_length=256, description="Name of the column.")
    type: str = Field(default="", max_length=64, description="Type of the column.")
    nulls: int = Field(default=0, ge=0, description="Number of missing values.")


class Violation(Schema):
    """Requirement that a version breaks."""

    rule: str = Field(max_length=512, description="Requirement, in words.")
    column: str = Field(default="", max_length=256, description="Column; empty for a condition over rows.")
    rows: int = Field(default=0, ge=0, description="Number of rows that break it.")
    examples: list[Annotated[str, Field(max_length=MAX_EXAMPLE)]] = Field(
        default=[], max_length=MAX_EXAMPLES, description="Rows that break it, with their numbers from 1."
    )


class ProfileStatus(Schema):
    """Profile of a table: profile.html to look at, profile.json and profile.parquet for programs."""

    uri: str = Field(default="", max_length=2048, description="Folder of the profile.")
    digest: str = Field(default="", max_length=71, description="SHA-256 over the list of its files.")


class DatasetVersionStatus(Status):
    """Verdict on a version, and its content."""

    model_config = ConfigDict(title="DatasetVersionStatus")

    state: str = Field(
        default="",
        max_length=32,
        description="Summary of the conditions, for display: Ready, Waiting, Profiling, Quarantined, Refused, or "
        "Invalid.",
    )
    type: str = Field(default="", max_length=32, description="Kind of data: table, file or folder.")
    format: str = Field(default="", max_length=32, description="Format of a table: csv, parquet or jsonl.")
    files: int = Field(default=0, ge=0, description="Number of files.")
    bytes: int = Field(default=0, ge=0, description="Size of all files in bytes.")
    rows: int | None = Field(default=None, ge=0, description="Number of rows of a table.")
    column_count: int = Field(default=0, ge=0, description="Number of columns of a table.")
    columns: list[ColumnStatus] = Field(
        default=[], max_length=MAX_SHOWN_COLUMNS, description="First columns of a table; the profile has all."
    )
    profile: ProfileStatus | None = Field(default=None, description="Profile of a table.")
    violations: list[Violation] = Field(
        default=[], max_length=MAX_VIOLATIONS, description="Requirements of the Dataset that the version breaks."
    )


class DatasetPin(Schema):
    """Version that a run reads, resolved once: whatever becomes of an alias, all of its pods read this one."""

    version: str = Field(max_length=253, description="DatasetVersion.")
    uri: str = Field(max_length=1024, description="Location of the data.")
    digest: Digest = Field(description="SHA-256 of the data, verified at every read.")
