"""Documents of an environment: the archive that pods unpack, the task of its build, and the build's result."""

from __future__ import annotations

import json
from typing import Annotated

from msgspec import Meta

from .common import LARGEST, Count, Document, Task

Bytes = bytes  # for records that have a field of that name
Seconds = Annotated[float, Meta(ge=0, lt=LARGEST)]

MAX_REQUIREMENTS, MAX_REQUIREMENT = 500, 500  # lines of an Environment, and characters of a line
LOCK_NAME = "requirements.txt"  # beside the archive: exact versions with hashes
# A line of requirements that are alone: a package by name or address, or an option other than -r, -c, -e and --hash.
REQUIREMENT_PATTERN = (
    r"^[ \t]*((#|-[if]|--([^rceh]|ex)|https?:|[0-9A-Za-z][\w.-]*[ \t]*([<>=!~;#(\[-]|@[ \t]*https?:|$))[^\n\r]*)?$"
)
ARCHIVE_NAME = "environment.tar.zst"


class EnvironmentArchive(Task, frozen=True):
    """Archive of a virtual environment, which is unpacked to ENVIRONMENT_DIR; `bytes` is its size."""

    uri: str
    digest: str
    bytes: Count = 0


class BuildTask(Task, frozen=True):
    """Task of a pod that builds an environment: the operator writes it into ENV_TASK of its containers.

    `requirements` are the lines of a requirements.txt; if empty, the file is at REQUIREMENTS_FILE, mounted from a
    ConfigMap, or at `path` in the source. `python` is the version that the image must have, or empty. The archive
    becomes PREFIX/DIGEST16/ARCHIVE_NAME below the s3:// URI `prefix`, with LOCK_NAME beside it, and the BuildRecord
    PREFIX/result.json. More than `max_bytes` of unpacked files are refused. The command `delete` of the image deletes
    all files below `prefix`, and ignores the other fields.
    """

    NOUN = "the task of a build"

    prefix: str
    requirements: tuple[str, ...] = ()
    path: str = ""
    python: str = ""
    max_bytes: Count = 0

    def to_json(self) -> str:
        return json.dumps(self.document(), sort_keys=True)


class BuildRecord(Document, frozen=True):
    """Result of a BuildTask: the termination message of its pod, and stored as PREFIX/result.json.

    On failure `reason` is a CamelCase word and `message` has the words of the resolver, with the remedy; the other
    fields are empty. On success `message` is a warning, or empty.
    """

    NOUN = "the record of a build"

    uri: str = ""
    digest: str = ""
    bytes: Count = 0
    unpacked_bytes: Count = 0
    packages: Count = 0
    lock: str = ""
    python: str = ""
    seconds: Seconds = 0
    reason: str = ""
    message: str = ""

    def to_json(self) -> Bytes:
        return json.dumps(self.document(), sort_keys=True).encode()
