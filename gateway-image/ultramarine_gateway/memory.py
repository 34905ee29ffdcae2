"""What outlives the agent: the endpoints as Envoy took them last, and the addresses, in a folder of the pod.

An agent that starts while the API server is away goes on from it, even if Envoy starts anew at the same time.
"""

from __future__ import annotations

import base64
import json
import logging
import secrets
from collections.abc import Mapping
from pathlib import Path

from ultramarine_gateway.rendering import ASSIGNMENT, Rendered, Resource

_log = logging.getLogger(__name__)


class Memory:
    """A file for each endpoint, and one for all addresses; each is replaced at once or not at all."""

    def __init__(self, folder: Path) -> None:
        self._endpoints, self._addresses = folder / "endpoints", folder / "addresses.json"
        self._word = folder / "word"
        self._endpoints.mkdir(parents=True, exist_ok=True)

    def names(self) -> set[str]:
        """The names of the endpoints that are kept."""
        return {path.stem for path in self._endpoints.glob("*.json")}

    def word(self) -> str:
        """A word that this gateway pod alone has, the same one after a restart of the agent."""
        try:
            if (known := self._word.read_text()) and known.isalnum():
                return known
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            _log.warning("%s is not read: %s", self._word, error)
        made = secrets.token_hex(16)
        _write(self._word, made)
        return made

    def endpoints(self) -> dict[str, Rendered]:
        """The endpoints as they were kept; one that cannot be read is left out."""
        found = {}
        for path in sorted(self._endpoints.glob("*.json")):
            try:
                found[path.stem] = Rendered.from_json(path.read_text())
            except (OSError, ValueError) as error:
                _log.warning("%s is not read: %s", path, error)
        return found

    def addresses(self) -> dict[str, Resource]:
        """The addresses as they were kept, by cluster."""
        try:
            kept = json.loads(self._addresses.read_text())
            return {name: Resource(ASSIGNMENT, name, base64.b64decode(value)) for name, value in kept.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, AttributeError, TypeError) as error:
            _log.warning("%s is not read: %s", self._addresses, error)
            return {}

    def keep(self, endpoint: Rendered) -> None:
        """Keep an endpoint as it is now; a certificate's key is in it, so nobody else may read the file."""
        _write(self._endpoints / f"{endpoint.name}.json", endpoint.to_json())

    def keep_addresses(self, assignments: Mapping[str, Resource]) -> None:
        """Keep all addresses as they are now."""
        kept = {name: base64.b64encode(one.value).decode() for name, one in assignments.items()}
        _write(self._addresses, json.dumps(kept))

    def forget(self, names: set[str]) -> None:
        """Keep these endpoints no longer."""
        for name in names:
            (self._endpoints / f"{name}.json").unlink(missing_ok=True)


def _write(path: Path, text: str) -> None:
    part = path.with_suffix(".part")
    part.touch(mode=0o600)
    part.write_text(text)
    part.rename(path)
