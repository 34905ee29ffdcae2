"""Model of a format that runs code, loaded by the server's own modules inside the user's environment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ultramarine_server import frames
from ultramarine_server.errors import LoadError, Problem
from ultramarine_server.formats.artifact import ModelFile
from ultramarine_server.formats.loading import Options, load_file
from ultramarine_server.models.model import signature_from
from ultramarine_server.usercode.failing import Failed, show


class LoadedModel:
    """Loaded model; its facts are its signature."""

    def __init__(self, start: Mapping[str, Any]) -> None:
        path, given = Path(start["path"]), start["signature"]
        self._folder = path if path.is_dir() else path.parent
        options = Options(signature_from(given) if given else None, start["threads"], code_allowed=True, isolated=True)
        try:
            self._model = load_file(ModelFile(path, start["format"]), options)
        except LoadError as error:
            if error.__cause__ is not None:
                show(error.__cause__, self._folder)
            raise Failed(error.reason, error.message) from error
        self.facts = self._described()

    def _described(self) -> dict[str, Any]:
        """Return the signature, and the inputs of requests by matrix and by column."""
        signature, model = self._model.signature, self._model
        names = str(signature.inputs[0].parameters.get("feature_names", "")) if signature.inputs else ""
        taken, columns = model.expected([]), model.expected(names.split(", ")[:1]) if names else ()
        parts = {"inputs": signature.inputs, "outputs": signature.outputs, "taken": taken, "columns": columns}
        return {part: [spec.to_dict() for spec in specs] for part, specs in parts.items()}

    def answer(self, header: Mapping[str, Any], body: bytearray) -> tuple[dict[str, Any], bytes]:
        """Return the outputs, or an error; only the log has the exception of a model."""
        try:
            results = self._model.predict(frames.unpack(header["arrays"], body), header["predict"])
        except Problem as problem:
            return {"status": problem.status, "error": str(problem)}, b""
        except BaseException as error:
            show(error, self._folder)
            return {"status": 500, "error": ""}, b""
        arrays, content = frames.pack(results)
        return {"arrays": arrays}, content
