"""Measure the way from a clone to the prediction on a machine without caches, and print the seconds of each phase.

The clone, all caches and the cluster's state lie in a new folder, which is removed at the end. The machine should do
nothing else: the embedded cluster must be down. 15 GB of disk are needed. Debian packages that are installed stay so.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STEP = re.compile(r"^\s*(\d+\.\d) s  ([^:]+)")  # as the launcher prints the end of a step
BUILT = re.compile(r"^\s+(.+) built in (?:(\d+) min )?(\d+) s")


def main() -> int:
    """Run `make demo` in a clone, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="parent of the new folder (default: that of the temporary files)")
    parser.add_argument("--keep", action="store_true", help="keep folder and cluster")
    chosen = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="ultramarine-cold-", dir=chosen.folder))
    environment = {
        **{name: value for name, value in os.environ.items() if name not in ("GOCACHE", "GOMODCACHE", "GOFLAGS")},
        "ULTRAMARINE_CACHE": str(folder / "cache"),
        "XDG_CACHE_HOME": str(folder / "xdg"),
        "PIP_CACHE_DIR": str(folder / "pip"),
        "UV_CACHE_DIR": str(folder / "uv"),
        "PYTHONUNBUFFERED": "1",
    }
    clone = folder / "clone"
    rows: list[tuple[str, float]] = []
    subprocess.run(["git", "clone", "-q", ROOT, clone], check=True)
    began = time.monotonic()
    try:
        subprocess.run(["make", ".venv/demo"], cwd=clone, env=environment, check=True)
        rows.append(("Python packages of launcher and demo", time.monotonic() - began))
        with subprocess.Popen(
            ["make", "demo"], cwd=clone, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as demo:
            assert demo.stdout is not None
            chapter, chapter_began = "", time.monotonic()
            for line in demo.stdout:
                print(f"{time.monotonic() - began:7.1f}  {line}", end="", flush=True)
                if step := STEP.match(line):
                    rows.append((f"  {step[2].strip()}", float(step[1])))
                elif built := BUILT.match(line):
                    rows.append((f"    {built[1]}", 60 * int(built[2] or 0) + int(built[3])))
                elif re.match(r"^\d\. ", line):
                    rows += [(f"chapter {chapter}", time.monotonic() - chapter_began)] if chapter else []
                    chapter, chapter_began = line.strip(), time.monotonic()
            rows.append((f"chapter {chapter}", time.monotonic() - chapter_began))
        rows.append(("clone to prediction", time.monotonic() - began))
        beside = folder / "cache" / "logs" / "images.log"
        print("\nImages that were built while Go compiled:")
        print(beside.read_text() if beside.exists() else "none")
        print("| phase | seconds |\n|---|---:|")
        for name, seconds in rows:
            print(f"| {name.replace('  ', '&nbsp; ')} | {seconds:.1f} |")
        return demo.returncode
    finally:
        if not chosen.keep:
            subprocess.run(["make", "down"], cwd=clone, env=environment, check=False)
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
