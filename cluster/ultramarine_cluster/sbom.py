"""Components of the platform's images, as CycloneDX 1.6: packages of Debian and Python, and Go modules of programs.

`python -m ultramarine_cluster.sbom FOLDER` writes a file for each image.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.parse import quote, urlencode

from . import build, buildah, images

DPKG, RELEASE, ELF = "var/lib/dpkg/status", "usr/lib/os-release", b"\x7fELF"
DEBIAN = "deb/debian"
PYTHON = re.compile(r"[^/]+\.dist-info/METADATA$")


class Component(NamedTuple):
    """A package: the type of its package URL (`os` for the distribution itself), name, version, and Debian's source."""

    kind: str
    name: str
    version: str
    source: str = ""


def write(folder: Path) -> None:
    """Write the list of each image's components, building the images that are missing."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in images.present():
        reference = images.build(name)
        with buildah.scratch_folder() as scratch:
            archive = images.export(reference, scratch / "image.tar")
            (folder / f"{name}.cdx.json").write_text(document(reference, archive))
        print(f"{folder / name}.cdx.json lists the components of {reference}", flush=True)


def document(reference: str, archive: Path) -> str:
    """Return the list of what is in an image's OCI archive, as text."""
    return json.dumps(_document(reference, sorted(set(_inside(archive)))), indent=1) + "\n"


def _document(reference: str, components: list[Component]) -> dict[str, Any]:
    name, _, version = reference.rpartition(":")
    about = {"type": "container", "name": name, "version": version}
    release = next((component for component in components if component.kind == "os"), None)
    distro = f"{release.name}-{release.version}" if release else ""
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": about},
        "components": [_listed(component, distro) for component in components],
    }


def _listed(component: Component, distro: str) -> dict[str, str]:
    """Return an entry; scanners find Debian's advisories by release and source package."""
    kind, name, version, source = component
    entry = {"name": name, "version": version}
    if kind == "os":
        return {"type": "operating-system", "bom-ref": f"os:{distro}", **entry}
    asked = {"distro": distro, "upstream": source} if kind == DEBIAN else {}
    qualifiers = urlencode({key: value for key, value in asked.items() if value})
    purl = f"pkg:{kind}/{quote(name, safe='/')}@{quote(version)}" + (f"?{qualifiers}" if qualifiers else "")
    return {"type": "library", "bom-ref": purl, **entry, "purl": purl}


def _inside(archive: Path) -> Iterator[Component]:
    """Yield the components in an OCI archive; a later layer replaces the files of an earlier one."""
    files: dict[str, list[Component]] = {}
    with tarfile.open(archive) as image:

        def blob(digest: str) -> IO[bytes]:
            content = image.extractfile(f"blobs/{digest.replace(':', '/')}")
            assert content is not None
            return content

        index = image.extractfile("index.json")
        assert index is not None
        manifest = json.load(blob(json.load(index)["manifests"][0]["digest"]))
        for layer in manifest["layers"]:
            with tarfile.open(fileobj=blob(layer["digest"]), mode="r:*") as members:
                for member in members:
                    path = member.name.removeprefix("./")
                    folder, _, name = path.rpartition("/")
                    if name.startswith(".wh."):
                        gone = f"{folder}/{name[4:]}"
                        files = {file: held for file, held in files.items() if not f"{file}/".startswith(f"{gone}/")}
                    elif member.isreg() and (content := members.extractfile(member)) is not None:
                        files[path] = _components(path, content, bool(member.mode & 0o111))
    for held in files.values():
        yield from held


def _components(path: str, content: IO[bytes], runs: bool) -> list[Component]:
    if path == DPKG:
        packages = (message_from_bytes(text) for text in content.read().split(b"\n\n") if text.strip())
        return [Component(DEBIAN, package["Package"], package["Version"], _source(package)) for package in packages]
    if path == RELEASE:
        words = dict(line.split("=", 1) for line in content.read().decode().splitlines() if "=" in line)
        return [Component("os", words["ID"].strip('"'), words["VERSION_ID"].strip('"'))]
    if PYTHON.search(path):
        about = message_from_bytes(content.read())
        return [Component("pypi", re.sub(r"[-_.]+", "-", about["Name"]).lower(), about["Version"])]
    if runs and path.split("/")[-2:-1] == ["bin"] and content.read(4) == ELF:
        return _modules(ELF + content.read())
    return []


def _source(package: Message) -> str:
    """Return the source package, if it has another name or version: NAME or NAME@VERSION."""
    name, _, version = package.get("Source", "").partition(" ")
    return f"{name}@{version.strip('()')}" if version else name


def _modules(program: bytes) -> list[Component]:
    """Return the modules of a Go program; none of another program."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(program)
        file.flush()
        words = [str(build.go_program()), "version", "-m", file.name]
        output = subprocess.run(words, capture_output=True, text=True, check=False).stdout
    version = re.search(r": go(\S+)", output)
    modules = re.findall(r"^\tdep\t(\S+)\t(\S+)", output, re.MULTILINE)
    standard = [Component("golang", "stdlib", version[1])] if version else []
    return [Component("golang", *module) for module in modules] + standard


if __name__ == "__main__":
    write(Path(sys.argv[1]))
