"""Raw requests and answers of Azure's scripts: rawhttp, AMLRequest and AMLResponse, without Flask.

If the environment has Azure's own server package, its classes are used.
"""

from __future__ import annotations

import email.parser
import importlib
import io
import json
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from email.message import Message
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar
from urllib.parse import parse_qsl

_REAL = "azureml_inference_server_http.api"
_ALIAS = "azureml.contrib.services"
Function = TypeVar("Function", bound=Callable[..., Any])

_raw = False


def rawhttp(function: Function) -> Function:
    """Mark run() as a function that takes an AMLRequest."""
    global _raw
    _raw = True
    return function


class Values(dict):  # type: ignore[type-arg]
    """Values by name, of which a name may have several: `get` returns the first, `getlist` all."""

    def __init__(self, pairs: Iterable[tuple[str, Any]] = ()) -> None:
        self._all: dict[str, list[Any]] = {}
        for name, value in pairs:
            self._all.setdefault(name, []).append(value)
        super().__init__({name: values[0] for name, values in self._all.items()})

    def getlist(self, name: str) -> list[Any]:
        return list(self._all.get(name, ()))


class Headers:
    """Headers of a request or an answer, by names in any case."""

    def __init__(self, headers: Iterable[tuple[str, str]] = ()) -> None:
        self._items = [(name, str(value)) for name, value in headers]

    def __getitem__(self, name: str) -> str:
        values = [value for key, value in self._items if key.lower() == name.lower()]
        if not values:
            raise KeyError(name)
        return ", ".join(values)

    def __setitem__(self, name: str, value: object) -> None:
        self.remove(name)
        self.add(name, value)

    def __contains__(self, name: str) -> bool:
        return any(key.lower() == name.lower() for key, _ in self._items)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def get(self, name: str, default: Any = None) -> Any:
        try:
            return self[name]
        except KeyError:
            return default

    def add(self, name: str, value: object) -> None:
        self._items.append((name, str(value)))

    add_header = add

    def remove(self, name: str) -> None:
        self._items = [(key, value) for key, value in self._items if key.lower() != name.lower()]

    def items(self) -> Iterator[tuple[str, str]]:
        return iter(self._items)

    def keys(self) -> Iterator[str]:
        return (name for name, _ in self._items)


class File:
    """File of a form."""

    def __init__(self, name: str, filename: str, content_type: str, content: bytes) -> None:
        self.name, self.filename, self.content_type, self.mimetype = name, filename, content_type, content_type
        self.stream = io.BytesIO(content)

    def read(self, size: int = -1) -> bytes:
        return self.stream.read(size)

    def save(self, target: Any) -> None:
        """Write the file to a path or a stream."""
        if hasattr(target, "write"):
            shutil.copyfileobj(self.stream, target)
        else:
            with Path(target).open("wb") as stream:
                shutil.copyfileobj(self.stream, stream)


class AMLRequest:
    """Request with the attributes of Flask's that scripts use."""

    def __init__(self, header: Mapping[str, Any], body: bytes) -> None:
        self.method, self.path = header["method"], header["path"]
        self.query_string = header["query"].encode()
        self.full_path = f"{self.path}?{header['query']}"
        self.headers = Headers(header["headers"].items())
        self.host = self.headers.get("host", "")
        self.url = f"http://{self.host}{self.full_path.rstrip('?')}"
        self.args = Values(parse_qsl(header["query"], keep_blank_values=True))
        self.content_type = self.headers.get("content-type", "")
        self.mimetype = self.content_type.partition(";")[0].strip().lower()
        self.content_length = len(body)
        fields, files = _form(self.mimetype, self.content_type, body)
        self.form, self.files = Values(fields), Values(files)
        self.values = Values([*self.args.items(), *self.form.items()])
        # As in Flask, the body of a form is in `form` and `files` alone.
        self._body = body
        self.data = b"" if fields or files else body
        self.stream = io.BytesIO(body)

    @property
    def is_json(self) -> bool:
        return bool(self.mimetype == "application/json" or self.mimetype.endswith("+json"))

    @property
    def json(self) -> Any:
        return self.get_json()

    def get_data(self, cache: bool = True, as_text: bool = False, parse_form_data: bool = False) -> Any:
        return self._body.decode() if as_text else self._body

    def get_json(self, force: bool = False, silent: bool = False, cache: bool = True) -> Any:
        """Return the JSON document of the body; None for another type, or with `silent` for another text."""
        if not force and not self.is_json:
            if silent:
                return None
            raise ValueError("the content type of the request is not application/json")
        try:
            return json.loads(self._body)
        except ValueError:
            if silent:
                return None
            raise


class AMLResponse:
    """Answer with a status and headers."""

    def __init__(
        self,
        message: Any,
        status_code: int,
        response_headers: Mapping[str, str] | None = None,
        json_str: bool = False,
        run_function_failed: bool = False,
    ) -> None:
        self.status_code = status_code
        self.headers = Headers([("Content-Type", "text/html; charset=utf-8")])
        if message is None or json_str:
            message = json.dumps({} if message is None else message)
            self.headers["Content-Type"] = "application/json"
        self._body = message
        self.headers["x-ms-run-function-failed"] = run_function_failed
        for name, value in (response_headers or {}).items():
            self.headers[name] = value

    @property
    def mimetype(self) -> str:
        return str(self.headers.get("Content-Type", "")).partition(";")[0].strip()

    @mimetype.setter
    def mimetype(self, value: str) -> None:
        self.headers["Content-Type"] = f"{value}; charset=utf-8" if value.startswith("text/") else value

    @property
    def content_type(self) -> str:
        return str(self.headers.get("Content-Type", ""))

    @content_type.setter
    def content_type(self, value: str) -> None:
        self.headers["Content-Type"] = value

    @property
    def data(self) -> bytes:
        return self.get_data()

    def get_data(self) -> bytes:
        """Return the body; parts are joined."""
        body = self._body
        if not isinstance(body, (str, bytes, bytearray)):
            body = b"".join(part.encode() if isinstance(part, str) else bytes(part) for part in body)
        return body.encode() if isinstance(body, str) else bytes(body)


def install() -> None:
    """Make the modules of raw requests importable under the names that scripts use."""
    names = ("aml_request", "aml_response")
    try:
        modules = {name: importlib.import_module(f"{_REAL}.{name}") for name in names}
    except ImportError:
        modules = dict.fromkeys(names, sys.modules[__name__])
    for package in (_ALIAS, _REAL):
        _package(package)
        for name, module in modules.items():
            sys.modules[f"{package}.{name}"] = module
            setattr(sys.modules[package], name, module)


def is_raw() -> bool:
    """True if the script has marked a function with rawhttp."""
    real = sys.modules[f"{_REAL}.aml_request"]
    return bool(_raw or getattr(real, "_rawHttpRequested", False))


def request(header: Mapping[str, Any], body: bytes) -> Any:
    """Return the request that run() takes: an AMLRequest, or Flask's with Azure's own package."""
    if sys.modules[f"{_REAL}.aml_request"] is sys.modules[__name__]:
        return AMLRequest(header, body)
    from flask import Request

    return Request(_environ(header, body))


def _package(name: str) -> None:
    """Import a package with its parents, or make what is missing."""
    parent, _, last = name.rpartition(".")
    if parent:
        _package(parent)
    try:
        importlib.import_module(name)
    except ImportError:
        module = sys.modules[name] = ModuleType(name)
        module.__path__ = []
    if parent:
        setattr(sys.modules[parent], last, sys.modules[name])


def _environ(header: Mapping[str, Any], body: bytes) -> dict[str, Any]:
    headers = header["headers"]
    host, _, port = str(headers.get("host", "localhost")).partition(":")
    environ: dict[str, Any] = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in headers.items()}
    return environ | {
        "REQUEST_METHOD": header["method"],
        "SCRIPT_NAME": "",
        "PATH_INFO": header["path"],
        "QUERY_STRING": header["query"],
        "CONTENT_TYPE": headers.get("content-type", ""),
        "CONTENT_LENGTH": str(len(body)),
        "SERVER_NAME": host,
        "SERVER_PORT": port or "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": sys.stderr,
    }


def _form(mimetype: str, content_type: str, body: bytes) -> tuple[list[tuple[str, str]], list[tuple[str, File]]]:
    if mimetype == "application/x-www-form-urlencoded":
        return parse_qsl(body.decode(errors="replace"), keep_blank_values=True), []
    fields: list[tuple[str, str]] = []
    files: list[tuple[str, File]] = []
    if mimetype != "multipart/form-data":
        return fields, files
    head = Message()
    head["content-type"] = content_type
    boundary = f"\r\n--{head.get_boundary('')}".encode()
    for part in (b"\r\n" + body).split(boundary)[1:]:
        if part.startswith(b"--"):
            break
        text, _, content = part.partition(b"\r\n\r\n")
        about = email.parser.BytesHeaderParser().parsebytes(text.lstrip(b"\r\n") + b"\r\n\r\n")
        name, filename = str(about.get_param("name", "", "content-disposition")), about.get_filename()
        if filename is None:
            fields.append((name, content.decode(errors="replace")))
        else:
            files.append((name, File(name, filename, about.get_content_type(), content)))
    return fields, files
