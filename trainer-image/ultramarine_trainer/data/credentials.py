"""Credentials of a private repository, from the keys of a mounted Secret."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FIELD = "spec.source.git.secretRef"
# User name beside a token for GitHub and GitLab, which take any name, but not an empty one.
TOKEN_USER = "x-access-token"
PRIVATE_KEY, KNOWN_HOSTS, CA = "ssh-privatekey", "known_hosts", "ca.crt"


class SourceError(Exception):
    """The code cannot be fetched; `transient` if another attempt may succeed."""

    def __init__(self, reason: str, message: str, *, transient: bool = False) -> None:
        super().__init__(message)
        self.reason, self.message, self.transient = reason, message, transient


@dataclass(frozen=True)
class Credentials:
    """The Secret with this name, mounted at this folder."""

    secret: str
    folder: Path

    def get(self, key: str) -> str:
        """Return the value of a key without white space around it, or nothing."""
        path = self.folder / key
        try:
            return path.read_text().strip() if path.is_file() else ""
        except UnicodeDecodeError as error:
            message = f"key {key} of Secret {self.secret} is not text; store it as it is in its file"
            raise SourceError("GitCredentialsInvalid", message) from error

    def check(self) -> None:
        """Raise SourceError for a Secret that is missing, empty or without a usable key."""
        keys = self._keys()
        if not keys:
            message = f"Secret {self.secret} not found, or empty; create it, or correct {FIELD}"
            raise SourceError("GitCredentialsNotFound", message, transient=True)
        if not {"password", "token", PRIVATE_KEY, CA} & set(keys):
            raise self.missing("password, token, ssh-privatekey or ca.crt")

    def missing(self, key: str) -> SourceError:
        """Return what to raise where a key is needed that the Secret does not have."""
        there = ", ".join(self._keys())
        message = f"Secret {self.secret} has no key {key} (it has: {there}); add the key"
        return SourceError("GitCredentialsInvalid", message, transient=True)

    def _keys(self) -> list[str]:
        """Return the keys that have a value; the mount has hidden folders of its own besides."""
        if not self.folder.is_dir():
            return []
        return sorted(p.name for p in self.folder.iterdir() if p.is_file() and p.stat().st_size)

    def http(self) -> tuple[str | None, str | None]:
        """Return user and password for http and https; None twice for a Secret that only has a CA."""
        password = self.get("password") or self.get("token")
        if not password:
            if not self.get(CA):
                raise self.missing("password or token")
            return None, None
        return self.get("username") or TOKEN_USER, password
