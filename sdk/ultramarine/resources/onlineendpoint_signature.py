"""Inputs of an endpoint's versions, as its status records them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from .base import Schema

MAX_INPUTS = 512
MAX_VERSIONS = 16

Version = Annotated[str, Field(max_length=253)]


class InputStatus(Schema):
    """Input of a model."""

    name: str = Field(max_length=253, description="Name of the input.")
    datatype: str = Field(default="", max_length=16, description="Element type; empty for any.")
    shape: list[int] = Field(default=[], max_length=8, description="Dimensions; -1 for any length.")
    features: list[Annotated[str, Field(max_length=253)]] = Field(
        default=[], max_length=MAX_INPUTS, description="Column names of a matrix, if the model has them."
    )


class VersionInputs(Schema):
    """Inputs of one version."""

    version: str = Field(max_length=253, description="ModelVersion.")
    digest: str = Field(
        default="",
        max_length=71,
        description="spec.digest of the ModelVersion; a new ModelVersion with the same name may have other inputs.",
    )
    inputs: list[InputStatus] = Field(
        max_length=MAX_INPUTS, description="Inputs; empty if there are too many, and then not compared."
    )


class SignaturesStatus(Schema):
    """Versions that get requests, versions that got them before, and the inputs of both."""

    versions: list[Version] = Field(
        default=[],
        max_length=MAX_VERSIONS,
        description="ModelVersions that get requests, or will get them once they are ready.",
    )
    before: list[Version] = Field(
        default=[], max_length=MAX_VERSIONS, description="ModelVersions that got requests before these."
    )
    known: list[VersionInputs] = Field(
        default=[],
        max_length=MAX_VERSIONS,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["version"]},
        description="Inputs by version, from spec.signature or from the pods, by way of the gateway.",
    )
