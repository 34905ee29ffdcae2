"""Environment: Python packages for pods that run a user's code; spec and status."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field
from ultramarine_contract.environment_records import MAX_REQUIREMENT, MAX_REQUIREMENTS, REQUIREMENT_PATTERN

from .base import IMMUTABLE, SAYS_NAME, SUBDOMAIN, Digest, KeySelector, Schema, Status, rule, rules, says
from .pods import Source


def checked_requirement(line: str) -> str:
    """Return a line of requirements that are alone. Raises ValueError for one that no build takes."""
    if not re.search(REQUIREMENT_PATTERN, line):  # a rule of the schema with this expression would cost too much
        raise ValueError(
            "must be one line with a package such as lightgbm==4.6, its https:// address, or an option of the index; "
            "a build reads no git, and lines with paths, -r, -c or -e need requirementsFile in git or in a tar archive"
        )
    return line


Requirement = Annotated[
    str,
    Field(
        min_length=1,
        max_length=MAX_REQUIREMENT,
        pattern=r"^[^\n\r]*$",
        json_schema_extra=says("must be one line of a requirements.txt, such as lightgbm==4.6"),
    ),
    AfterValidator(checked_requirement),
]


def _naming_packages(lines: list[str]) -> list[str]:
    if all(line.lstrip()[:1] in ("", "#", "-") for line in lines):
        raise ValueError("must name a package; there are only comments and options")
    return lines


Requirements = Annotated[list[Requirement], AfterValidator(_naming_packages)]
RequirementsPath = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*$",
        max_length=500,
        json_schema_extra=says("must be the path of a file in the source, such as requirements.txt"),
    ),
]


EnvironmentName = Annotated[str, Field(pattern=f"^{SUBDOMAIN}$", max_length=253, json_schema_extra=SAYS_NAME)]


class RequirementsFrom(Schema):
    """Requirements in another object."""

    config_map: KeySelector = Field(description="ConfigMap, and its key with the requirements.")


class RequirementsFile(Schema):
    """Requirements in a file of a source."""

    source: Source = Field(description="Source with the file.")
    path: RequirementsPath = Field(default="requirements.txt", description="Path of the file in the source.")


class Python(Schema):
    """Python packages, as lines of a requirements.txt: inline, in a ConfigMap, or in a source."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "[has(self.requirements), has(self.requirementsFrom), has(self.requirementsFile)]"
                ".filter(it, it).size() == 1",
                "give one of requirements, requirementsFrom and requirementsFile",
            )
        )
    )

    version: str = Field(
        default="",
        pattern=r"^(3\.[0-9]{1,2})?$",
        max_length=4,
        description="Expected version of Python, such as 3.11; the build fails if the image has another. Default: that"
        " of the image.",
        json_schema_extra=says("must be a version in quotes, such as '3.11'"),
    )
    requirements: Requirements | None = Field(
        default=None, min_length=1, max_length=MAX_REQUIREMENTS, description="Lines of a requirements.txt."
    )
    requirements_from: RequirementsFrom | None = Field(default=None, description="ConfigMap with a requirements.txt.")
    requirements_file: RequirementsFile | None = Field(default=None, description="Source with a requirements.txt.")


class EnvironmentReference(Schema):
    """Environment of a pod: an Environment by name, or requirements, for which a shared Environment is made."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "[has(self.name), has(self.requirements), has(self.requirementsFrom), has(self.requirementsFile)]"
                ".filter(it, it).size() == 1",
                "give one of name, requirements, requirementsFrom and requirementsFile",
            )
        )
    )

    name: EnvironmentName | None = Field(default=None, description="Name of an Environment in the same namespace.")
    requirements: Requirements | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_REQUIREMENTS,
        description="Lines of a requirements.txt. Objects with equal lines share one Environment.",
    )
    requirements_from: RequirementsFrom | None = Field(default=None, description="ConfigMap with a requirements.txt.")
    requirements_file: RequirementsPath | None = Field(
        default=None, description="Path of a requirements.txt in the source of the same spec."
    )


class EnvironmentPin(Schema):
    """Environment of a run, the same for all of its pods, whatever becomes of the object Environment."""

    environment: str = Field(default="", max_length=253, description="Environment of the command, by its name.")
    environment_uri: str = Field(
        default="", max_length=2048, description="Archive of the environment in the object storage."
    )
    environment_digest: str = Field(default="", max_length=100, description="SHA-256 of the environment's archive.")
    environment_bytes: int = Field(default=0, ge=0, description="Size of the environment's archive in bytes.")
    environment_image: str = Field(
        default="",
        max_length=500,
        description="Base image of the environment, which the pods have unless the spec has an image.",
    )


class EnvironmentSpec(Schema):
    """Packages and base image of an environment. Immutable: another content is another Environment."""

    image: str = Field(
        default="",
        max_length=500,
        description="Base image with Python, which the pods must have too. Default: the platform's images.",
        json_schema_extra=IMMUTABLE,
    )
    python: Python = Field(description="Python packages.", json_schema_extra=IMMUTABLE)
    ttl_seconds_after_unused: int | None = Field(
        default=None,
        ge=0,
        le=315360000,
        description="Time in seconds after which the Environment is deleted if no object refers to it. Default: never"
        " for one with a name of its own, the chart's environments.unusedDays for a shared one.",
    )


class Lock(Schema):
    """Exact versions and hashes of all packages."""

    uri: str = Field(max_length=2048, description="File in the object storage, in the format of requirements.txt.")
    packages: int = Field(default=0, ge=0, description="Number of packages.")


class EnvironmentStatus(Status):
    """Build of the environment."""

    state: str = Field(
        default="",
        max_length=32,
        description="Summary of the conditions, for display: Building, Ready, Failed, Deleting.",
    )
    uri: str = Field(default="", max_length=2048, description="Archive in the object storage.")
    digest: Digest | None = Field(default=None, description="SHA-256 of the archive.")
    bytes: int = Field(default=0, ge=0, description="Size of the archive in bytes.")
    unpacked_bytes: int = Field(default=0, ge=0, description="Size of the unpacked files in bytes.")
    size: str = Field(default="", max_length=16, description="Size of the archive, for display, such as 210Mi.")
    python_version: str = Field(default="", max_length=16, description="Version of Python.")
    lock: Lock | None = Field(default=None, description="Exact versions of all packages.")
    build_seconds: int = Field(default=0, ge=0, description="Duration of the build in seconds.")
    attempts: int = Field(default=0, ge=0, le=99999, description="Number of builds that were started.")
    unused_since: str | None = Field(
        default=None,
        json_schema_extra={"format": "date-time"},
        description="Time since which no object uses it. Absent while one does.",
    )
