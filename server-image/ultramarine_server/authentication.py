"""Authentication by keys from a mounted Secret, of clients or of the gateway. Rotated keys apply without a restart."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from ultramarine_contract.common import GATEWAY_HEADER

KEY_NAMES = ("primary", "secondary")
NO_PROOF = "this pod answers its gateway alone: ask the endpoint"
Holder = Literal["client", "gateway"]
LOOK_SECONDS = 0.1  # between two reads of the files; a read at each request would cost a tenth of it


class KeyRing:
    """Keys that are valid now, of clients or of the gateway; a rotated Secret applies LOOK_SECONDS later."""

    def __init__(
        self,
        folder: Path,
        holder: Holder = "client",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.holder = holder
        self._clock = clock
        self._files = [folder / name for name in KEY_NAMES]
        self._seen: tuple[tuple[int, int, int] | None, ...] = ()
        self._digests: list[bytes] = []
        self._look_at = self._clock()
        self._refresh()

    def __len__(self) -> int:
        return len(self._digests)

    def opens(self, headers: Mapping[str, str]) -> bool:
        """True if the headers have a valid key."""
        self._refresh()
        opened = False
        # All pairs are compared, and by digest, so that the time reveals neither a key's length nor which key matched.
        for key in _from_gateway(headers) if self.holder == "gateway" else _from_client(headers):
            if key:
                offered = _digest(key)
                for digest in self._digests:
                    opened |= hmac.compare_digest(offered, digest)
        return opened

    def _refresh(self) -> None:
        now = self._clock()
        if now < self._look_at:
            return
        self._look_at = now + LOOK_SECONDS
        # The kubelet swaps a link, so a new Secret has another inode.
        seen = tuple(_identity(path) for path in self._files)
        if seen != self._seen:
            self._seen = seen
            digests = [_digest(key) for path in self._files if (key := _read(path))]
            # While the Secret is missing or empty, the previous keys stay valid.
            self._digests = digests or self._digests


def _from_client(headers: Mapping[str, str]) -> list[str]:
    """Return the keys in `api-key: KEY` and in `Authorization: Bearer KEY`."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return [headers.get("api-key", ""), token.strip() if scheme.lower() == "bearer" else ""]


def _from_gateway(headers: Mapping[str, str]) -> list[str]:
    """Return the keys of a gateway; at most two, as in its Secret."""
    return headers.get(GATEWAY_HEADER, "").split(" ", 2)[:2]


def _identity(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="surrogateescape")).digest()
