"""The line of a command's output that says why it failed, and a remedy for its cause.

Most programs say it last. An exception in Python has its own line behind the frames, and what follows is the rest of
its message: more lines, a stack of C++, a box that a launcher draws.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

LONGEST = 300  # characters
_SEARCHED = 2 * LONGEST  # characters of the words, with what a message says before them
_MESSAGE_LINES = 40  # of one exception; behind more of them the program has gone on

_PREFIX = re.compile(r"(?:\[rank\d+\]: ?|\[\d+,\d+\]<std(?:out|err)>: ?|(?:\s*\|)+ ?)")  # torch, mpirun, groups
_FRAME = re.compile(r'\s+File ".*", line \d+(?:, in .*)?')
_STACK = re.compile(r"\s*(?:\[bt\] .*|Stack trace:?.*|frame #\d+: .*|#\d+ +0x.*|at [\w.$<>]+\(.*\))", re.IGNORECASE)
_RULE = re.compile(r"[\W\d]*")  # between the parts of a message
_HEADING = re.compile(r"(?:\s*\+ )?(?:Exception Group )?Traceback \(most recent|During handling of|The above exception")
_ECHO = re.compile(  # of another process, which spoke before
    r"(?:\w+\.)*(?:ChildFailedError|CalledProcessError)\b|make\b.*: \*\*\*|(?:mpirun|mpiexec|srun|wandb)\b|Primary job "
    r"|.*\b(?:exitcode|exit(?:ed|s)?\b.{0,40}\b(?:code|status))\b"
)
_ERROR = re.compile(  # a line that tells of an error by itself
    r"(?:\w+\.)*\w*(?:Error|Exception)(?::|$)|(?i:fatal|error): |.*(?:\b(?:ERROR|CRITICAL|FATAL)\b|(?i:out of memory))"
)
_TIMES = re.compile(  # what the program time prints behind the output
    r"(?:real|user|sys)\s+[\d.,:]+(?:m[\d.,]+)?s?|[\d.]+user [\d.]+system .*|\d+inputs\+\d+outputs .*"
)
# Each gap is short: the words may be a tenant's, and a search through them must not take long.
_NETWORK = re.compile(
    r"\bconnect(?:ion)?(?: (?:to|with|from|by|call|attempt|was|is|has been)\b.{0,80}?)?[ :]*"
    r"(?:refused|reset|abort|timed? ?out|fail|closed|error)"
    r"|(?:could(?: not|n't)|can(?: ?not|'t)|failed to|unable to) connect\b|establish a new connection"
    r"|\bclosed connection\b|max retries exceeded|urlopen error|name or service not known|name ?resolution|getaddrinfo"
    r"|(?:failed|unable) to resolve (?:the )?(?:host|name|address|domain)|could not (?:resolve|translate) host"
    r"|network is unreachable|no route to host|\b(?:connect|(?:read|handshake)(?: operation)?) ?timed? ?out"
    r"|(?-i:(?:^|: )(?:\w{1,60}\.){0,9}TimeoutError\b)|\bsocket\.timeout\b",
    re.IGNORECASE,
)
_CLOCK = re.compile(r"\[\d\d:\d\d:\d\d\] ")  # another one in each attempt, as xgboost tells it
_IMPORT = re.compile(
    r"(?:No module named '|optional dependency '|No matching distribution found for )(?P<package>\w[\w-]*)"
)


def last_words(lines: Sequence[str], stdout: Collection[int] = (), *, alone: bool = False) -> str:
    """Return what the lines of a command that failed say last of the cause, at most LONGEST characters.

    `stdout` are the indices of lines of stdout: they do not belong to an exception on stderr.
    `alone` leaves out the lines after it, which may differ in another attempt that fails alike.
    """
    lines = [line[match.end() :] if (match := _PREFIX.match(line)) else line for line in lines]
    errors = [index for index in range(len(lines)) if index not in stdout]
    for candidates in (errors, range(len(lines))):
        if (own := _exception(lines, candidates)) and len(lines) - own[0] <= _MESSAGE_LINES:
            message = _later(lines, own) or _message([lines[index] for index in own], alone)
            return _CLOCK.sub("", message)[:LONGEST]
    texts = [line.strip() for line in lines if line.strip()]
    speaking = [text for text in texts if not _is_silent(text)]
    return next(reversed(speaking or texts), "")[:LONGEST]


def tells_error(line: str) -> bool:
    """True if the line names an error by itself, and does not only come last."""
    return bool(_ERROR.match(line))


def _is_silent(line: str) -> bool:
    return bool(_STACK.fullmatch(line) or _RULE.fullmatch(line) or _TIMES.fullmatch(line.strip()))


def _exception(lines: Sequence[str], candidates: Sequence[int]) -> Sequence[int]:
    """Return the candidates from the line behind the frames of the last exception on; echoes are skipped."""
    own, behind_frames = [], False
    for place, index in enumerate(candidates):
        line = lines[index]
        if _FRAME.fullmatch(line):
            behind_frames = True
        elif behind_frames and line and not line[0].isspace() and not _RULE.fullmatch(line):
            own.append(place)
            behind_frames = False
    if not own:
        return ()
    return candidates[next((place for place in reversed(own) if not _ECHO.match(lines[candidates[place]])), own[-1]) :]


def _later(lines: Sequence[str], own: Sequence[int]) -> str:
    """Return the last error behind an exception that the program has survived, or nothing.

    It has gone on if it says something else before that error.
    """
    last = next((index for index in reversed(own[1:]) if _ERROR.match(lines[index]) and not _is_echo(lines[index])), 0)
    between = (line for line in lines[own[0] + 1 : last] if not (_is_silent(line) or _is_echo(line)))
    return lines[last].strip() if any(not line[:1].isspace() and not _ERROR.match(line) for line in between) else ""


def _is_echo(line: str) -> bool:
    return bool(_ECHO.match(line) or _HEADING.match(line))


def _message(lines: Sequence[str], alone: bool) -> str:
    """The exception's message, which may have several lines, as one."""
    message = lines[0].strip()
    for line in lines[1:]:
        if _STACK.fullmatch(line) or _HEADING.match(line) or (alone and not message.endswith(":")):
            break
        if not (_is_silent(line) or _ECHO.match(line)):
            message = f"{message} {line.strip()}"
    return message


def is_of_the_network(words: str) -> bool:
    """True if the cause is that a host cannot be reached, or not at this moment."""
    return bool(_NETWORK.search(words[:_SEARCHED]))


def missing_module(words: str) -> str:
    """Return the module of Python that the command did not find, or nothing for another cause."""
    match = _IMPORT.search(words[:_SEARCHED])
    return match["package"] if match else ""


def missing_input(words: str) -> str:
    """Return how a script finds its inputs if the cause is a missing file; empty for another cause."""
    if "FileNotFoundError: " not in words[:_SEARCHED]:
        return ""
    return (
        "if the file is an input, pass $(inputs.NAME) as an argument of the command, or read the variable "
        "AZURE_ML_INPUT_NAME, which has the input's path"
    )


def remedy(words: str) -> str:
    """Return a remedy for this cause, or nothing if only the author can know one."""
    if module := missing_module(words):
        package = f"if {module} is not a file of your own"
        return f"{package}, build an image with it as docs/images.md shows, and set spec.image"
    if hint := missing_input(words):
        return hint
    if is_of_the_network(words):
        return (
            "training pods reach the object storage alone, unless the chart's networkPolicies.egress opens more "
            "(docs/training.md, Network): copy the data into the bucket, or ask an administrator to open it"
        )
    return ""
