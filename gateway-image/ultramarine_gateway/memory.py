"""Files that outlive the agent: the endpoints as Envoy accepted them last, and the addresses.

With them an agent starts without an API server, even if Envoy restarts at the same time.
"""

from __future__ import annotations

import base64
import json
import logging
import secrets
from collections.abc import Mapping
from pathlib import Path

from ultramarine_gateway.xds.resources import ASSIGNMENT, EndpointConfig, Resource

_log = logging.getLogger(__name__)


class Memory:
    """One file for each endpoint, and one for all addresses; files are replaced atomically."""

    def __init__(self, folder: Path) -> None:
        self._endpoints, self._addresses = folder / "endpoints", folder / "addresses.json"
        self._reader = folder / "word"
        self._endpoints.mkdir(parents=True, exist_ok=True)

    def names(self) -> set[str]:
        """Return the names of the endpoints with a file."""
        return {path.stem for path in self._endpoints.glob("*.json")}

    def reader(self) -> str:
        """Return the id of this gateway pod, which stays the same after a restart of the agent."""
        try:
            if (kept := self._reader.read_text()) and kept.isalnum():
                return kept
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            _log.warning("cannot read %s: %s", self._reader, error)
        made = secrets.token_hex(16)
        _write(self._reader, made)
        return made

    def endpoints(self) -> dict[str, EndpointConfig]:
        """Read the endpoints; a file that cannot be read is left out."""
        endpoints = {}
        for path in sorted(self._endpoints.glob("*.json")):
            try:
                endpoints[path.stem] = EndpointConfig.from_json(path.read_text())
            except (OSError, ValueError) as error:
                _log.warning("cannot read %s: %s", path, error)
        return endpoints

    def addresses(self) -> dict[str, Resource]:
        """Read the addresses, by cluster."""
        try:
            kept = json.loads(self._addresses.read_text())
            return {name: Resource(ASSIGNMENT, name, base64.b64decode(value)) for name, value in kept.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, AttributeError, TypeError) as error:
            _log.warning("cannot read %s: %s", self._addresses, error)
            return {}

    def keep(self, endpoint: EndpointConfig) -> None:
        """Write an endpoint; only the agent may read the file, which has the certificate's key."""
        _write(self._endpoints / f"{endpoint.name}.json", endpoint.to_json())

    def keep_addresses(self, assignments: Mapping[str, Resource]) -> None:
        """Write all addresses."""
        kept = {name: base64.b64encode(assignment.value).decode() for name, assignment in assignments.items()}
        _write(self._addresses, json.dumps(kept))

    def forget(self, names: set[str]) -> None:
        """Delete the files of these endpoints."""
        for name in names:
            (self._endpoints / f"{name}.json").unlink(missing_ok=True)


def _write(path: Path, text: str) -> None:
    part = path.with_suffix(".part")
    part.touch(mode=0o600)
    part.write_text(text)
    part.rename(path)
