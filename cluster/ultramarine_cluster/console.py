"""Output of the launcher: steps with their time, and a progress line for long work."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from .errors import ClusterError
from .paths import cache

HEARTBEAT = 30.0
TRANSFER = 3600.0  # seconds, for images over a slow network


def say(text: str) -> None:
    """Print a line at once, so that logs of a killed run are complete."""
    print(text, flush=True)


@contextmanager
def step(name: str) -> Iterator[list[str]]:
    """Print a step's name and time at its end, and add its name to errors inside.

    Notes that are appended to the yielded list are printed behind the name.
    """
    start = time.monotonic()
    notes: list[str] = []
    try:
        yield notes
    except ClusterError as error:
        error.step = error.step or name
        raise
    except subprocess.CalledProcessError as error:
        output = (error.stderr or error.stdout or b"") if not isinstance(error.stderr, str) else error.stderr
        text = output if isinstance(output, str) else output.decode(errors="replace")
        is_full = "no space left on device" in text
        raise ClusterError(
            f"`{' '.join(map(str, error.cmd))}` ended with {error.returncode}: {text.strip()[-2000:]}",
            "free some space on the disk" if is_full else "run that command by hand to see more",
            step=name,
        ) from error
    except subprocess.TimeoutExpired as error:
        raise ClusterError(
            f"`{' '.join(map(str, error.cmd))}` was ended after {error.timeout:.0f} s",
            "run that command by hand to see what it waits for",
            step=name,
        ) from error
    except OSError as error:
        raise ClusterError(
            str(error), "check the path, its permissions and the free space of the disk", step=name
        ) from error
    took = time.monotonic() - start
    say(f"{took:6.1f} s  {name}{': ' + ', '.join(notes) if notes else ''}")


def minutes(seconds: float) -> str:
    """Return a duration as text: 42 s, 3 min 05 s."""
    whole = int(seconds + 0.5)
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60:02d} s"


@contextmanager
def total() -> Iterator[Callable[[], float]]:
    """Measure the block; the yielded function returns the seconds since its start."""
    start = time.monotonic()
    yield lambda: time.monotonic() - start


class Progress:
    """The progress line of long work: rewritten on a terminal, repeated every half minute in a log."""

    def __init__(self, expected: float, start: float | None = None) -> None:
        self.expected = expected
        self.start = time.monotonic() if start is None else start
        self.terminal = sys.stdout.isatty()
        self.printed = 0.0
        self.label = ""

    def begin(self, label: str) -> None:
        """Set the label of the current work."""
        self.label = label
        self.printed = 0.0
        self.tick()

    def tick(self) -> None:
        """Update the line; in a log, only every half minute."""
        now = time.monotonic()
        if not self.terminal and now - self.printed < HEARTBEAT:
            return
        self.printed = now
        elapsed = now - self.start
        line = f"{self.label}  ({minutes(elapsed)} of about {minutes(max(self.expected, elapsed))})"
        if self.terminal:
            print(f"\r\x1b[K{line}", end="", flush=True)
        else:
            say(line)

    def end(self, line: str = "") -> None:
        """Clear the rewritten line, and print `line` instead."""
        if self.terminal:
            print("\r\x1b[K", end="", flush=True)
        if line:
            say(line)


def run_logged(
    argv: Sequence[str | Path],
    log: Path,
    progress: Progress,
    *,
    remedy: str,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> None:
    """Run a long command with its output in `log` and a progress line; fail with the log's end."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        file.write(f"$ {' '.join(map(str, argv))}\n".encode())
        file.flush()
        with subprocess.Popen(
            [str(word) for word in argv], stdout=file, stderr=file, stdin=subprocess.DEVNULL, cwd=cwd,
            env={**os.environ, **(env or {})},
        ) as process:  # fmt: skip
            try:
                while True:
                    try:
                        code = process.wait(0.3)
                        break
                    except subprocess.TimeoutExpired:
                        progress.tick()
            except BaseException:
                process.terminate()
                raise
    if code != 0:
        progress.end()
        raise ClusterError(f"`{Path(argv[0]).name}` ended with {code}", remedy, log=log)


def run(*argv: str | Path, input: str | None = None, check: bool = True, timeout: float = 300) -> str:
    """Run a command and return its output; an exception has its error output. `timeout` is in seconds."""
    done = subprocess.run(
        [str(word) for word in argv],
        input=input,
        check=check,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "KUBECACHEDIR": str(cache() / "kubectl")},  # not ~/.kube/cache
    )
    return done.stdout
