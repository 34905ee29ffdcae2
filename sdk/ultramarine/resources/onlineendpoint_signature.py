"""What an endpoint's status remembers of the inputs that its versions take."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from .base import Schema

MAX_INPUTS = 512
MAX_VERSIONS = 16

Version = Annotated[str, Field(max_length=253)]


class InputStatus(Schema):
    """One input of a model."""

    name: str = Field(max_length=253, description="Its name.")
    datatype: str = Field(default="", max_length=16, description="Its element type; empty for any.")
    shape: list[int] = Field(default=[], max_length=8, description="Its dimensions; -1 for any length.")
    features: list[Annotated[str, Field(max_length=253)]] = Field(
        default=[], max_length=MAX_INPUTS, description="Names of the columns of a matrix, if the model knows them."
    )


class VersionInputs(Schema):
    """The inputs of one version."""

    version: str = Field(max_length=253, description="The ModelVersion.")
    digest: str = Field(
        default="", max_length=71, description="Its spec.digest. A new ModelVersion of the name has other inputs."
    )
    inputs: list[InputStatus] = Field(
        max_length=MAX_INPUTS, description="Its inputs; empty if they are too many, and then not compared."
    )


class SignaturesStatus(Schema):
    """The versions that requests go to, those that they went to before, and what these versions take."""

    versions: list[Version] = Field(
        default=[],
        max_length=MAX_VERSIONS,
        description="ModelVersions that get requests, or will get them once they are ready.",
    )
    before: list[Version] = Field(
        default=[], max_length=MAX_VERSIONS, description="ModelVersions that requests went to before these."
    )
    known: list[VersionInputs] = Field(
        default=[],
        max_length=MAX_VERSIONS,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["version"]},
        description="Their inputs, if known: by spec.signature, or as a pod has told the gateway.",
    )
