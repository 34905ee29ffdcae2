"""What can be served."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from ultramarine_server.signature import Signature, TensorSpec
from ultramarine_server.tensors import Array


class Model(Protocol):
    """Something with a signature that predicts. `predict` may be called from several threads at once."""

    signature: Signature

    def expected(self, names: Sequence[str]) -> tuple[TensorSpec, ...]:
        """Return the inputs wanted from a request that has inputs of these names."""

    def predict(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Return the named outputs for inputs that fit the specs."""


class Loaded(msgspec.Struct, eq=False):
    """A model that answers, under its name; `platform` is what its metadata calls its format.

    A request with at most `quick` numbers is answered at once; `strikes` counts how often that took too long.
    """

    name: str
    version: str
    platform: str
    model: Model
    quick: int = 0
    strikes: int = 0
