"""The line of a command's output that says why it failed, and what helps against its cause.

Most programs say it last. An exception in Python has its own line behind the frames, and what follows is the rest of
its message: more lines, a stack of C++, a box that a launcher draws.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

LONGEST = 300  # characters
_MESSAGE_LINES = 40  # of one exception; behind more of them the program has gone on

_PREFIX = re.compile(r"(?:\[rank\d+\]: ?|\[\d+,\d+\]<std(?:out|err)>: ?|(?:\s*\|)+ ?)")  # torch, mpirun, groups
_FRAME = re.compile(r'\s+File ".*", line \d+(?:, in .*)?')
_STACK = re.compile(r"\s*(?:\[bt\] .*|Stack trace:?.*|frame #\d+: .*|#\d+ +0x.*|at [\w.$<>]+\(.*\))", re.IGNORECASE)
_RULE = re.compile(r"[\W\d]*")  # between the parts of a message
_HEADING = re.compile(r"(?:\s*\+ )?(?:Exception Group )?Traceback \(most recent|During handling of|The above exception")
_ECHO = re.compile(r"(?:\w+\.)*(?:ChildFailedError|CalledProcessError)\b")  # of another process, which spoke before
_NETWORK = re.compile(
    r"connect(ion)?\b.*(refused|reset|abort|time|fail|closed|error)|connection ?error|could(n't| not) connect"
    r"|failed to connect|max retries exceeded|urlopen error|name or service not known|name resolution|getaddrinfo"
    r"|(failed|unable) to resolve|could not (resolve|translate) host|network is unreachable|no route to host"
    r"|(connect|read)\w* ?timed? ?out|\btimeouterror\b|\bsocket\.timeout\b",
    re.IGNORECASE,
)
_CLOCK = re.compile(r"\[\d\d:\d\d:\d\d\] ")  # another one in each attempt, as xgboost tells it
_IMPORT = re.compile(
    r"(?:No module named '|ImportError: .*\bdependency '|No matching distribution found for )(?P<package>\w[\w-]*)"
)


def last_words(lines: Sequence[str], stdout: Collection[int] = ()) -> str:
    """Return what the lines of a command that failed say last of the cause, at most LONGEST characters.

    `stdout` are the indices of those that are known to be of stdout: they are no part of an exception that stderr has.
    """
    lines = [line[match.end() :] if (match := _PREFIX.match(line)) else line for line in lines]
    errors = [index for index in range(len(lines)) if index not in stdout]
    for candidates in (errors, range(len(lines))):
        if (found := _exception(lines, candidates)) and len(lines) - found[0] <= _MESSAGE_LINES:
            return found[1]
    told = [line.strip() for line in lines if line.strip()]
    speaking = [line for line in told if not (_STACK.fullmatch(line) or _RULE.fullmatch(line))]
    return next(reversed(speaking or told), "")[:LONGEST]


def _exception(lines: Sequence[str], candidates: Sequence[int]) -> tuple[int, str] | None:
    """Where the last exception that is no echo has its own line, the first behind its frames, and its message."""
    own, behind_frames = [], False
    for place, index in enumerate(candidates):
        line = lines[index]
        if _FRAME.fullmatch(line):
            behind_frames = True
        elif behind_frames and line and not line[0].isspace() and not _RULE.fullmatch(line):
            own.append(place)
            behind_frames = False
    if not own:
        return None
    start = next((place for place in reversed(own) if not _ECHO.match(lines[candidates[place]])), own[-1])
    return candidates[start], _message([lines[index] for index in candidates[start:]])


def _message(lines: Sequence[str]) -> str:
    """The exception's message, which may have several lines, as one."""
    message = lines[0].strip()
    for line in lines[1:]:
        if _STACK.fullmatch(line) or _HEADING.match(line):
            break
        if not _RULE.fullmatch(line):
            message = f"{message} {line.strip()}"
    return _CLOCK.sub("", message)[:LONGEST]


def is_of_the_network(words: str) -> bool:
    """True if the cause is that a host cannot be reached, or not at this moment."""
    return bool(_NETWORK.search(words))


def remedy(words: str) -> str:
    """What helps against this cause, or nothing if only its author can know."""
    if match := _IMPORT.search(words):
        what = f"if {match['package']} is not a file of yours"
        return f"{what}, build an image with it as docs/images.md shows, and set spec.image"
    if is_of_the_network(words):
        return (
            "training pods reach the object storage alone, unless the chart's networkPolicies.egress opens more "
            "(docs/training.md, Network): copy the data into the bucket, or have the way opened"
        )
    return ""
