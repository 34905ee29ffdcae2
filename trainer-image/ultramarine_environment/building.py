"""Build of an environment in its base image, without keys: by uv and the standard library of Python 3.9 or newer."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from importlib import metadata
from pathlib import Path
from typing import Any, Iterable, Mapping, NamedTuple  # noqa: UP035  of Python 3.9

from ultramarine_environment.failures import Failed, explained
from ultramarine_environment.native import missing_libraries
from ultramarine_environment.tools import uv

# As ultramarine_contract has them, which an own image lacks.
ENV_TASK = "ULTRAMARINE_TASK"
ENVIRONMENT_DIR = "/mnt/environment"
SOURCE_DIR = "/mnt/source"
REQUIREMENTS_FILE = "/mnt/requirements/requirements.txt"
TERMINATION_LOG = "/dev/termination-log"
EXIT_DO_NOT_RETRY, EXIT_TRY_AGAIN = 203, 75

LOCK, BUILD = "requirements.lock", ".build"  # in the environment; what is in BUILD is not archived
RESULT = f"{BUILD}/result.json"  # fields of the BuildRecord that the build knows
_PINNED = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==(\S+)", re.MULTILINE)
_VERSION = re.compile(r"\d+(\.\d+)*((a|b|rc)\d+)?(\.post\d+)?(\+[a-z0-9.]+)?")  # PEP 440
_OF_FILES = re.compile(r"(-r|-c|-e|--requirement|--constraint|--editable)(?![a-z-])")
_OF_INDEX = re.compile(r"\s*(-i|-f|--index-url|--extra-index-url|--find-links)(?![a-z-])")
_POSITION = re.compile(r"`([^`\s]*)` at position (\d+)")
_LOOK_SECONDS = 2.0


class Places(NamedTuple):
    """Paths of a build."""

    environment: Path = Path(ENVIRONMENT_DIR)
    requirements: Path = Path(REQUIREMENTS_FILE)
    source: Path = Path(SOURCE_DIR)
    termination_log: Path = Path(TERMINATION_LOG)


PLACES = Places()


def main(variables: Mapping[str, str] = os.environ, places: Places = PLACES) -> int:
    """Build what ENV_TASK has, and return the exit code; a failure is a BuildRecord in the termination log."""
    began = time.monotonic()
    try:
        result = _Build(json.loads(variables[ENV_TASK]), variables, places).run()
        (places.environment / RESULT).write_text(json.dumps({**result, "seconds": round(time.monotonic() - began, 1)}))
        return 0
    except Failed as error:
        failed = error
    except OSError as error:
        failed = explained(str(error))
    _say(f"{failed.reason}: {failed.message}")
    places.termination_log.write_text(json.dumps({"reason": failed.reason, "message": failed.message}))
    return EXIT_TRY_AGAIN if failed.transient else EXIT_DO_NOT_RETRY


def _say(line: str) -> None:
    print(f"ultramarine-environment: {line}", flush=True)


class _Build:
    def __init__(self, task: Mapping[str, Any], variables: Mapping[str, str], places: Places) -> None:
        self._task, self._places = task, places
        self._folder = places.environment
        self._work = places.environment / BUILD
        self._lock = places.environment / LOCK
        self._lines: list[str] = []
        self._limit = int(task.get("max_bytes") or 0)
        # Everything that uv writes is on the disk of the environment: files are linked there, not copied.
        self._variables = {
            **{name: value for name, value in variables.items() if name not in (ENV_TASK, "VIRTUAL_ENV")},
            "HOME": str(self._work),
            "TMPDIR": str(self._work),
            "UV_CACHE_DIR": str(self._work / "cache"),
            "UV_LINK_MODE": "hardlink",
            "UV_PYTHON_DOWNLOADS": "never",
            "UV_NO_PROGRESS": "1",
            "NO_COLOR": "1",
            "UV_COMPILE_BYTECODE_TIMEOUT": "600",  # seconds for a file, on a node that is busy
            # Archived files have other times than these.
            "PYC_INVALIDATION_MODE": "UNCHECKED_HASH",
        }

    def run(self) -> dict[str, Any]:
        """Leave the environment in its folder, and return what the build knows of its BuildRecord."""
        self._check_python()
        _clear(self._folder)
        self._work.mkdir()
        requirements, folder = self._requirements()
        self._lines = requirements.read_text(errors="replace").splitlines()
        self._check_lines(is_alone=not self._task.get("path"))
        _say("resolving")
        self._lock.write_text("".join(f"{line}\n" for line in installed()))
        words: list[str | Path] = [
            "--python",
            sys.executable,
            "--generate-hashes",
            "--no-header",
            "--output-file",
            self._lock,
        ]
        self._uv(["pip", "compile", *words, requirements], folder)
        packages = dict(_PINNED.findall(self._lock.read_text()))
        _say(f"resolved packages: {', '.join('=='.join(pin) for pin in packages.items())}")
        self._uv(
            ["venv", "--system-site-packages", "--allow-existing", "--python", sys.executable, self._folder], folder
        )
        python = self._folder / "bin" / "python"
        words = ["--python", python, "--require-hashes", "--no-deps", "--compile-bytecode", "-r", self._lock]
        self._uv(["pip", "install", *words], folder, len(packages))
        shutil.rmtree(self._work)
        self._work.mkdir()
        size = sum(sizes([self._folder]).values())
        self._check_size(size)
        warning = missing_libraries(self._site(), sys.path)
        if warning:
            _say(f"warning: {warning}")
        _say(f"installed packages: {len(packages)}, {size} bytes")
        version = platform.python_version()
        return {"packages": len(packages), "unpacked_bytes": size, "python": version, "message": warning}

    def _check_python(self) -> None:
        expected, version = str(self._task.get("python") or ""), f"{sys.version_info[0]}.{sys.version_info[1]}"
        if expected and expected != version:
            remedy = f"set spec.python.version to '{version}', or spec.image to an image with Python {expected}"
            raise Failed("PythonMismatch", f"the image has Python {version}, not {expected}; {remedy}")

    def _requirements(self) -> tuple[Path, Path]:
        """Return the file with the requirements, and the folder that its relative paths mean."""
        if lines := self._task.get("requirements"):
            path = self._work / "requirements.in"
            path.write_text("\n".join(lines) + "\n")
            return path, self._work
        if not self._task.get("path"):
            path, remedy = self._places.requirements, "create the ConfigMap with this key"
            folder = path.parent
        else:
            folder = self._places.source
            path, remedy = folder / self._task["path"], "correct spec.python.requirementsFile.path"
        if not path.is_file():
            # A ConfigMap may be created after the object that names it.
            is_empty = not folder.is_dir() or not any(path.name[:2] != ".." for path in folder.iterdir())
            raise Failed("RequirementsMissing", f"{path.name} not found in {path.parent}; {remedy}", is_empty)
        return path, path.parent

    def _check_lines(self, is_alone: bool) -> None:
        """Check the lines of the requirements; those that are alone cannot name other files."""
        lines = [line.split("#")[0].strip() for line in self._lines]
        if all(not line or _OF_INDEX.match(line) for line in lines):
            raise Failed("RequirementsInvalid", "the requirements name no package; name at least one")
        for number, line in enumerate(lines, 1):
            if is_alone and (option := _OF_FILES.match(line)):
                remedy = "write the lines of that file here, or set requirementsFile with a source"
                message = f"line {number} of the requirements names a file by {option[1]}; {remedy}"
                raise Failed("RequirementsInvalid", message)

    def _explained(self, text: str) -> Failed:
        """Return the failure that uv's output means, with the lines of the requirements that it concerns."""
        for name, position in _POSITION.findall(text) if not self._task.get("path") else ():
            number = "\n".join(self._lines)[: int(position)].count("\n") + 1
            text = text.replace(f"`{name}` at position {position}", f"line {number} of the requirements")
        failed = explained(text)
        numbers = [str(number) for number, line in enumerate(self._lines, 1) if _OF_INDEX.match(line)]
        if numbers and failed.reason in ("IndexUnreachable", "IndexUnauthorized", "CertificateUnknown"):
            remedy = f"check the index in line {', '.join(numbers)} of the requirements"
            return Failed(failed.reason, f"{failed.message.rpartition('; ')[0]}; {remedy}", failed.transient)
        return failed

    def _uv(self, words: Iterable[str | Path], folder: Path, count: int = 0) -> None:
        """Run uv, and say how far it is. Raises Failed in uv's own words."""
        try:
            process = subprocess.Popen(
                [str(uv()), *map(str, words)],
                cwd=folder,
                env=self._variables,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
            )
        except OSError as error:
            remedy = "set spec.image to an image with glibc, such as one based on Debian"
            raise Failed("BuildFailed", f"uv does not run in this image: {error}; {remedy}") from error
        lines: list[str] = []
        reader = threading.Thread(target=self._read, args=(process, lines), daemon=True)
        reader.start()
        fetched = 0
        while process.poll() is None:
            reader.join(_LOOK_SECONDS)
            done = min(len(list(self._work.glob("cache/archive-v*/*"))), count)
            if done != fetched:
                fetched = done
                _say(f"downloading {fetched} of {count}")
            if self._limit and (size := sum(sizes([self._folder]).values())) > self._limit:
                process.kill()
                self._check_size(size)
        reader.join()
        if process.returncode:
            raise self._explained("".join(lines))

    def _read(self, process: subprocess.Popen[str], lines: list[str]) -> None:
        for line in process.stderr or ():
            lines.append(line)
            print(line, end="", flush=True)

    def _site(self) -> Path:
        return next(self._folder.glob("lib/python*/site-packages"))

    def _check_size(self, size: int) -> None:
        if not self._limit or size <= self._limit:
            return
        folders = [*self._work.glob("cache/archive-v*/*"), *self._folder.glob("lib/python*/site-packages")]
        largest = ", ".join(f"{name} {_mebibytes(size)}" for name, size in sizes(folders).most_common(5))
        remedy = "remove packages or choose smaller ones, or raise the chart's environments.maxSize"
        message = f"the environment has more than {_mebibytes(self._limit)}; the largest packages: {largest}; {remedy}"
        raise Failed("TooLarge", message)


def installed() -> list[str]:
    """Return the image's packages as lines of requirements, which the resolver prefers to other versions."""
    packages = {(package.metadata["Name"], package.version) for package in metadata.distributions()}
    pins = {f"{name}=={version}" for name, version in packages if version and _VERSION.fullmatch(version)}
    return sorted(pin for pin in pins if _PINNED.fullmatch(pin))


def sizes(folders: Iterable[Path]) -> Counter[str]:
    """Return the bytes below each name in these folders; a file with several names counts once."""
    total, seen = Counter[str](), set[int]()
    for top in folders:
        pending = [(entry.name, entry) for entry in _entries(top)]
        while pending:
            name, entry = pending.pop()
            try:
                if entry.is_dir(follow_symlinks=False):
                    pending += [(name, below) for below in _entries(entry.path)]
                    continue
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:  # uv moves files meanwhile
                continue
            if status.st_nlink == 1 or status.st_ino not in seen:
                seen.add(status.st_ino)
                total[name] += status.st_size
    return total


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _clear(folder: Path) -> None:  # as ultramarine_contract has it, which an own image lacks
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"
