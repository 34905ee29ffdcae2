"""Scoring script by the contract of Azure Machine Learning: init() once, and run(data) for each request."""

from __future__ import annotations

import importlib.util
import inspect
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import parse_qsl

from ultramarine_server import frames
from ultramarine_server.usercode import azure
from ultramarine_server.usercode.failing import Failed, failed, show, words

_MODULE = "entry_module"  # as in Azure's server
_NO_DEFAULT = inspect.Parameter.empty


class _Refused(Exception):
    """The request does not fit the script."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Script:
    """Scoring script after its init()."""

    def __init__(self, folder: str, entry: str) -> None:
        self._folder, self._entry = Path(folder), entry
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s - %(message)s")
        azure.install()
        module = self._imported()
        for name in ("init", "run"):
            if not callable(getattr(module, name, None)):
                message = f"{entry} has no function {name}(). Define init() and run(data)."
                raise Failed("ScoringFailed", message)
        driven = getattr(module, "driver_module", None)  # generated around the real script by Azure's older SDK
        self._run = driven.run if isinstance(driven, ModuleType) and hasattr(driven, "run") else module.run
        self._predict: Callable[..., Any] | None = getattr(module, "predict", None)
        self._raw = azure.is_raw()
        self._schema = _schema(self._run)
        self._parameters, self._wants_headers = self._taken()
        try:
            module.init()
        except BaseException as error:
            raise failed(error, f"init() of {entry}", self._folder) from error
        self.facts = {"raw": self._raw, "schema": self._schema, "predict": callable(self._predict)}

    def answer(self, header: Mapping[str, Any], body: bytearray) -> tuple[dict[str, Any], bytes]:
        """Return the answer's header and body; the user's code does not end the process by an exception."""
        function = "predict" if "predict" in header else "run"
        try:
            if function == "predict":
                return self._predicted(header, body)
            return self._rendered(self._run(**self._arguments(header, body)))
        except _Refused as refused:
            return {"status": refused.status, "error": str(refused)}, b""
        except BaseException as error:
            show(error, self._folder)
            status = 400 if isinstance(error, ValueError) else 500
            message = f"{function}() of {self._entry} {words(error, self._folder)}"
            return {"status": status, "error": message, "failed": True}, b""

    def _imported(self) -> ModuleType:
        path = self._folder / self._entry
        sys.path[:0] = list(dict.fromkeys([str(path.parent), str(self._folder)]))
        sys.argv = [str(path)]
        os.chdir(self._folder)
        specification = importlib.util.spec_from_file_location(_MODULE, path)
        if specification is None or specification.loader is None or not path.is_file():
            files = ", ".join(sorted(file.name for file in self._folder.glob("*.py"))) or "no Python file"
            message = f"the source has no {self._entry}, but {files}. Correct scoring.entry."
            if not any(file.name[:2] != ".." for file in self._folder.glob("*")):
                message = f"scoring.source is missing or empty. Create its ConfigMap with {self._entry}."
                raise Failed("ScoringMissing", message)
            raise Failed("ScoringFailed", message)
        module = sys.modules[_MODULE] = importlib.util.module_from_spec(specification)
        try:
            specification.loader.exec_module(module)
        except BaseException as error:
            raise failed(error, self._entry, self._folder) from error
        return module

    def _taken(self) -> tuple[list[inspect.Parameter], bool]:
        """Return the parameters of run(), and True if it takes the request's headers too."""
        parameters = list(inspect.signature(self._run).parameters.values())
        kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        data = [parameter for parameter in parameters if parameter.name != "request_headers"]
        if not data or any(parameter.kind not in kinds for parameter in parameters):
            message = f"run() of {self._entry} must take its data by name, without *args. Define run(data)."
            raise Failed("ScoringFailed", message)
        more = [parameter.name for parameter in data[1:] if parameter.default is _NO_DEFAULT]
        if more and self._schema is None:
            message = f"run() of {self._entry} has a parameter {more[0]!r}, which no request fills"
            raise Failed("ScoringFailed", f"{message}. Define run(data) or run(data, request_headers).")
        return data, len(data) < len(parameters)

    def _arguments(self, header: Mapping[str, Any], body: bytearray) -> dict[str, Any]:
        taken: dict[str, Any] = {"request_headers": dict(header["headers"])} if self._wants_headers else {}
        first = self._parameters[0].name
        if self._raw:
            return {**taken, first: azure.request(header, bytes(body))}
        if self._schema is not None:
            return {**taken, **self._values(_document(header, body))}
        if header["method"] == "GET":
            return {**taken, first: json.dumps(_queried(header["query"]))}
        try:
            return {**taken, first: body.decode("utf-8")}
        except UnicodeDecodeError as error:
            raise _Refused(400, f"the body is not UTF-8 text: {error}") from error

    def _values(self, document: Mapping[str, Any]) -> dict[str, Any]:
        values = {parameter.name: document.get(parameter.name, parameter.default) for parameter in self._parameters}
        missing = [name for name, value in values.items() if value is _NO_DEFAULT]
        if missing:
            raise _Refused(400, f"the body has no {missing[0]!r}, which run() takes; send it")
        return values

    def _rendered(self, result: Any) -> tuple[dict[str, Any], bytes]:
        if callable(getattr(result, "get_data", None)) and hasattr(result, "status_code"):  # AMLResponse, or Flask's
            return {"status": int(result.status_code), "headers": list(result.headers.items())}, result.get_data()
        try:
            text = json.dumps({} if result is None else result)
        except Exception as error:
            kind = f"{type(result).__module__}.{type(result).__name__}".replace("builtins.", "")
            message = f"run() of {self._entry} returned a value of type {kind}, which is not JSON ({error})"
            remedy = "Return a dict, list, string or number, such as array.tolist(), or an AMLResponse."
            print(message, file=sys.stderr, flush=True)
            return {"status": 500, "error": f"{message}. {remedy}", "failed": True}, b""
        return {"status": 200, "headers": [("content-type", "application/json")]}, text.encode()

    def _predicted(self, header: Mapping[str, Any], body: bytearray) -> tuple[dict[str, Any], bytes]:
        import numpy as np

        assert self._predict is not None
        results = self._predict(frames.unpack(header["arrays"], body))
        names = header["predict"]
        if not isinstance(results, Mapping) or any(name not in results for name in names):
            given = ", ".join(map(str, results)) if isinstance(results, Mapping) else type(results).__name__
            message = f"predict() of {self._entry} returned {given}. Return a dict with {', '.join(names)}."
            return {"status": 500, "error": message, "failed": True}, b""
        arrays, content = frames.pack({name: np.asarray(results[name]) for name in names})
        return {"arrays": arrays}, content


def _schema(run: Any) -> dict[str, Any] | None:
    """Return the schemas of inference_schema's decorators; None without them."""
    if "inference_schema" not in sys.modules:
        return None
    from inference_schema import schema_util

    if not schema_util.is_schema_decorated(run):
        return None
    return {
        "input": _plain(schema_util.get_input_schema(run)),
        "output": _plain(schema_util.get_output_schema(run)),
    }


def _plain(schema: Any) -> Any:
    return json.loads(json.dumps(schema, default=str))


def _document(header: Mapping[str, Any], body: bytearray) -> dict[str, Any]:
    if header["method"] == "GET":
        return _queried(header["query"])
    kind = str(header["headers"].get("content-type", "")).partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise _Refused(415, "the script takes JSON; send content-type application/json")
    try:
        document = json.loads(body)
    except ValueError as error:
        raise _Refused(400, f"the body is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise _Refused(400, "the body must be a JSON object with the parameters of run()")
    return document


def _queried(query: str) -> dict[str, Any]:
    """Return the parameters of a query, each as JSON if it is; a repeated parameter is a list."""
    values: dict[str, list[Any]] = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        values.setdefault(name, []).append(value)
    return {name: given[0] if len(given) == 1 else given for name, given in values.items()}
