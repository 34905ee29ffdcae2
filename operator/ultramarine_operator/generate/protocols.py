"""Writes the Python modules of the .proto files that the server image's package has; part of `generate`."""

from __future__ import annotations

import tempfile
from pathlib import Path

from grpc_tools import protoc

_ROOT = Path(__file__).resolve().parents[3]
_FOLDER = Path("server-image", "ultramarine_server", "grpc", "stubs")
_SHARED_POOL, _OWN_POOL = "_descriptor_pool.Default()", "_descriptor_pool.DescriptorPool()"


def modules() -> dict[Path, str]:
    """The messages of each .proto file, as a module and its type stub; the paths begin at the repository's root."""
    out: dict[Path, str] = {}
    sources = sorted(path.name for path in (_ROOT / _FOLDER).glob("*.proto"))
    with tempfile.TemporaryDirectory() as made:
        options = [f"-I{_ROOT / _FOLDER}", f"--python_out={made}", f"--pyi_out={made}"]
        if status := protoc.main(["protoc", *options, *sources]):
            raise ValueError(f"protoc ends with {status} for {', '.join(sources)} of {_FOLDER}; see its words above")
        for path in sorted(Path(made).iterdir()):
            text = path.read_text()
            if path.suffix == ".py":
                # The default pool takes each name once in a process, and users' clients of the same protocol
                # bring the same names: a model whose code imports one could not be served.
                if text.count(_SHARED_POOL) != 1:
                    raise ValueError(f"{path.name} must have {_SHARED_POOL} once; protoc writes something new")
                text = text.replace(_SHARED_POOL, _OWN_POOL)
            out[_FOLDER / path.name] = text
    return out
