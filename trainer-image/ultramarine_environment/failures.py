"""Failures of a build, in uv's own words with a remedy."""

from __future__ import annotations

import re

MAX_WORDS = 1200  # characters of uv's words; a condition and a termination message have room for them
_PACKAGE = re.compile(r"Failed to [\w ]*build[^`]*`([^`]+)`")


class Failed(Exception):
    """End of a build: a reason in CamelCase, a message, and `transient` if another attempt may succeed."""

    def __init__(self, reason: str, message: str, transient: bool = False) -> None:
        super().__init__(message)
        self.reason, self.message, self.transient = reason, message, transient


# By reason: what uv prints, and the remedy. The first match counts.
_CAUSES = (
    ("DiskFull", r"No space left|os error 28|Disk quota", "free space on the node, or use fewer packages"),
    (
        "CertificateUnknown",
        r"invalid peer certificate|UnknownIssuer|certificate verif",
        "put the authority of the index into the chart's value ca",
    ),
    (
        "IndexUnauthorized",
        r"\b(?:401|403|407) (?:Unauthorized|Forbidden|Proxy)|authentication credentials|Missing credentials",
        "check the credentials in the Secret of the chart's environments.secretName",
    ),
    (
        "IndexUnreachable",
        r"error sending request|dns error|timed out|status server error|429 Too Many",
        "check the chart's environments.indexUrl, the proxy, and that the network lets pods that build reach it",
    ),
    ("BuildFailed", r"Failed to [\w ]*build|build backend", ""),
    (
        "NotFound",
        r"not found in the package registry|no versions? of|404 Not Found",
        "correct the name or the version, or name the index that has it",
    ),
    (
        "Unsatisfiable",
        r"No solution found|unsatisfiable|conclude that",
        "loosen one of these requirements, or choose an image with another Python",
    ),
    (
        "RequirementsInvalid",
        r"[Cc]ouldn't parse|[Ee]xpected|Unsupported|require-hashes|Invalid|not a valid|Distribution not f|Git \w+ f",
        "correct the line; packages come from an index, as NAME==VERSION",
    ),
)


def explained(text: str) -> Failed:
    """Return the failure that uv's output means."""
    words = _words(text)
    for reason, pattern, remedy in _CAUSES:
        if re.search(pattern, text):
            if reason == "BuildFailed":
                return Failed(reason, _unbuilt(text))
            return Failed(reason, f"{words}; {remedy}", reason in ("DiskFull", "IndexUnreachable"))
    return Failed("BuildFailed", f"{words}; read the log of the container build")


def _words(text: str) -> str:
    """Return uv's error and its causes as one sentence, shortened."""
    error = match[1] if (match := re.search(r"^error: (.*)", text, re.MULTILINE | re.DOTALL)) else text
    words = re.sub(r"\s+cause: ", ": ", error.partition("\nhint: Build")[0])
    words = " ".join(words.split()).removeprefix("No solution found when resolving dependencies: ").rstrip(".")
    return words if len(words) <= MAX_WORDS else words[:MAX_WORDS].rpartition(" ")[0] + " [...]"


def _unbuilt(text: str) -> str:
    """Return the message for a package without a wheel, with the line of its build that names the cause."""
    package = match[1] if (match := _PACKAGE.search(text)) else "a package"
    lines = [line.strip() for line in text.partition("\nhint: ")[0].splitlines() if line.strip()]
    cause = next((line for line in reversed(lines) if re.match(r"(\w*[eE]rror|fatal)\b", line)), lines[-1])
    remedy = "choose a version with a wheel, or set spec.image to an image with a compiler"
    return f"{package} has no wheel for this Python, and its build failed: {cause[:500]}; {remedy}"
