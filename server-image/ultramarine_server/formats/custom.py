"""Files of any kind, which only a scoring script or a container reads."""

from __future__ import annotations

from pathlib import Path

from ultramarine_server.errors import LoadError
from ultramarine_server.formats.loading import Options
from ultramarine_server.models.model import Model

PLATFORM = "custom"


def load(path: Path, options: Options) -> Model:
    """Raise LoadError, because the server does not know the files."""
    message = "a model of format custom needs code of its own. Set scoring or container on the deployment."
    raise LoadError(message, "ModelUnsupported")
