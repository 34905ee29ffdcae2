"""Install extras of pyproject.toml in the versions of constraints.txt: by uv, or by pip if uv cannot be installed.

`install.py EXTRA...` fills an image's own Python; `--common` keeps only what all the extras share. `--editable` fills
the Python that runs this file with the repository itself. pip's settings hold for uv as well.
"""

from __future__ import annotations

import argparse
import ast
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import tomllib
from pathlib import Path

# uv's variable for each of pip's settings.
UV = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "no-index": "UV_NO_INDEX",
    "trusted-host": "UV_INSECURE_HOST",
    "cert": "SSL_CERT_FILE",
    "proxy": "ALL_PROXY",
    "timeout": "UV_HTTP_TIMEOUT",
    "default-timeout": "UV_HTTP_TIMEOUT",
}
TESTED = ("matplotlib", "pandas", "pyarrow", "scipy", "sklearn", "statsmodels")
UNUSED = ("include", "src", "libarrow_flight*", "libarrow_python_flight*", "_flight*")  # of pyarrow
COMPILERS = 4  # a fixed number, since what a process has compiled before shows in the bytes that it writes


def main(argv: list[str]) -> None:
    """Install what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("extra", nargs="+")
    parser.add_argument("--common", action="store_true", help="only the requirements that all the extras share")
    parser.add_argument("--without", default="", metavar="NAME", help="a requirement to leave out")
    parser.add_argument("--editable", action="store_true", help="the repository with the extras, for developers")
    parser.add_argument("-r", dest="file", action="append", default=[], help="more requirements, with --editable")
    chosen = parser.parse_args(argv)
    folder = Path.cwd() if chosen.editable else Path(__file__).parent
    words = ["-c", str(folder / "constraints.txt")]
    if chosen.editable:
        files = [word for file in chosen.file for word in ("-r", file)]
        install([*words, "-e", f".[{','.join(chosen.extra)}]", *files], [], [])
        return
    extras = tomllib.loads((folder / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    sets = [set(extras[extra]) for extra in chosen.extra]
    names = set.intersection(*sets) if chosen.common else set.union(*sets)
    alone, since = ["--break-system-packages"], time.time()
    install(
        [*words, *sorted(names - {chosen.without})],
        ["--no-cache", *alone],
        ["--no-cache-dir", "--no-compile", "--root-user-action=ignore", *alone],
    )
    finish(Path(sysconfig.get_paths()["purelib"]), since)


def install(words: list[str], uv: list[str], pip: list[str]) -> None:
    """Install by uv, which resolves, fetches and unpacks in a fifth of pip's time."""
    python = [sys.executable, "-m", "pip"]
    with tempfile.TemporaryDirectory() as folder:
        constraints = words[:2]
        quiet = ["-q", "--disable-pip-version-check"]
        fetch = [*python, "install", *quiet, "--root-user-action=ignore", "--target", folder, *constraints, "uv"]
        if subprocess.run(fetch, check=False).returncode == 0:
            listed = subprocess.run([*python, "config", "list"], capture_output=True, text=True, check=True).stdout
            argv = [f"{folder}/bin/uv", "pip", "install", "-q", "--python", sys.executable, *uv, *words]
            subprocess.run(argv, check=True, env={**os.environ, **settings(listed)})
            return
    print("uv cannot be installed here; pip takes longer", flush=True)
    subprocess.run([*python, "install", *quiet, *pip, *words], check=True)


def settings(listed: str) -> dict[str, str]:
    """Return uv's environment for pip's settings, as `pip config list` prints them."""
    environment = {}
    for line in listed.splitlines():
        key, _, value = line.partition("=")
        if variable := UV.get(key.rpartition(".")[2].lower().replace("_", "-")):
            environment[variable] = ast.literal_eval(value)
    return environment


def finish(site: Path, since: float) -> None:
    """Leave tests out, and compile what is new so that the same packages give the same bytes."""
    for name in TESTED:
        for tests in [path for path in (site / name).rglob("tests") if path.is_dir()]:
            shutil.rmtree(tests, ignore_errors=True)
    for pattern in UNUSED:
        for path in (site / "pyarrow").glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    # To touch a file of an earlier layer would copy it into this one. The clocks of a file system lag a little.
    fresh = sorted(path for path in site.rglob("*") if path.is_file() and path.stat().st_mtime > since - 1)
    for path in fresh:
        os.utime(path, (0, 0), follow_symlinks=False)
    sources = [str(path) for path in fresh if path.suffix == ".py"]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    with tempfile.TemporaryDirectory() as folder:
        processes = []
        for number in range(COMPILERS):
            listed = Path(folder, str(number))
            listed.write_text("\n".join(sources[number::COMPILERS]))
            argv = [sys.executable, "-m", "compileall", "-q", "-i", str(listed)]
            processes.append(subprocess.Popen(argv, stdout=subprocess.DEVNULL, env=environment))
        for process in processes:
            process.wait()  # its code says nothing: some packages have files for other versions of Python


if __name__ == "__main__":
    main(sys.argv[1:])
