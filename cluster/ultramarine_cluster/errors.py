"""The launcher's error, which names the next step."""

from __future__ import annotations

from pathlib import Path


class ClusterError(Exception):
    """A step that failed: its name, the reason, the remedy and the log."""

    def __init__(self, reason: str, remedy: str, *, step: str = "", log: Path | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy
        self.step = step
        self.log = log

    def __str__(self) -> str:
        lines = [f"{self.step or 'ultramarine-cluster'} failed: {self.reason}"]
        if self.log is not None:
            # The log names the command that ran, whose many options would hide the cause.
            lines += [f"  | {line}" for line in tail(self.log, 30) if not line.startswith("$ ")]
            lines.append(f"  log: {self.log}")
        lines.append(f"  what to do: {self.remedy}")
        return "\n".join(lines)


def tail(log: Path, count: int) -> list[str]:
    """Return the last `count` lines of a log; none if it does not exist."""
    try:
        with log.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - 400 * count))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [line[:400] for line in text.splitlines()[-count:]]
