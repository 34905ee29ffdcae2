"""Seconds that an environment adds to a pod's start: unpacked from its archive, or mounted as an image volume.

Runs on the embedded cluster, in the namespace of the installed chart. The image volume's content is loaded into the
node before, as a registry would need a pull. Run it with PYTHONPATH as in `make sweep`:
`python bench/image_volume.py "scikit-learn==1.5.2 pandas"`.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from serving import processor
from sights import table
from ultramarine_cluster import images, target
from ultramarine_environment import building
from ultramarine_environment.building import Places

NAMESPACE, STARTS = "ultramarine", 5
PRINT = "import time, sys; sys.path.insert(0, '/mnt/volume'); import pandas, sklearn; print(time.time())"
VOLUME = "environment-volume:1"


def main(requirements: list[str]) -> None:
    """Measure the starts of each sort in turn, and print the table."""
    to = target.choose("")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        loaded = load(Path(folder), requirements)
        sorts = {
            "job, packages of the image": lambda name: job(name, []),
            "job, environment unpacked from its archive": lambda name: job(name, requirements),
            "pod, packages of the image": lambda name: pod(name, ""),
            "pod, environment as an image volume": lambda name: pod(name, VOLUME),
        }
        for sort, make in sorts.items():
            seconds = [start(to, make(f"bench-{number}")) for number in range(STARTS + 1)][1:]
            figures = (statistics.median(seconds), min(seconds), max(seconds))
            rows.append(
                {"start": sort, **dict(zip(("median s", "least", "most"), (f"{x:.2f}" for x in figures), strict=True))}
            )
    print(f"\n{processor()}, {os.cpu_count()} CPUs; the image volume took {loaded:.1f} s to build and load\n")
    print(table(rows))


def load(folder: Path, requirements: list[str]) -> float:
    """Install the packages, and load them into the node as an image; return the seconds of the second part."""
    places = Places(folder / "environment", folder / "none", folder / "none", folder / "log")
    places.environment.mkdir()
    os.environ["ULTRAMARINE_TASK"] = json.dumps({"prefix": "s3://bench/x/1", "requirements": requirements})
    assert not building.main(os.environ, places), places.termination_log.read_text()
    (folder / "Dockerfile").write_text("FROM scratch\nCOPY environment /\n")
    began = time.monotonic()
    subprocess.run(["ultramarine-cluster", "images", "load", str(folder), "--as", VOLUME], check=True)
    return time.monotonic() - began


def job(name: str, requirements: list[str]) -> dict[str, Any]:
    """Return a TrainingJob that imports two packages and prints the time."""
    spec = {"command": ["python", "-c", PRINT], "backoffLimit": 0}
    environment = {"environment": {"requirements": requirements}} if requirements else {}
    return {
        "apiVersion": "ultramarine.dev/v1alpha1",
        "kind": "TrainingJob",
        "metadata": {"name": name},
        "spec": spec | environment,
    }


def pod(name: str, volume: str) -> dict[str, Any]:
    """Return a pod of the trainer's image that does the same, perhaps with an image volume."""
    security = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": True}
    container = {
        "name": "main",
        "image": images.reference("trainer"),
        "command": ["python3", "-c", PRINT],
        "securityContext": security | {"seccompProfile": {"type": "RuntimeDefault"}},
        "volumeMounts": [{"name": "environment", "mountPath": "/mnt/volume"}] if volume else [],
    }
    image = {"reference": f"docker.io/library/{volume}", "pullPolicy": "IfNotPresent"}
    volumes = [{"name": "environment", "image": image}] if volume else []
    spec = {"restartPolicy": "Never", "containers": [container], "volumes": volumes}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def start(to: target.Target, manifest: dict[str, Any]) -> float:
    """Apply a manifest, wait for the printed time, and return the seconds between."""
    kubectl = [*to.kubectl, "-n", NAMESPACE]
    name = manifest["metadata"]["name"]
    labels = f"ultramarine.dev/name={name}"
    of = ["-l", labels] if manifest["kind"] == "TrainingJob" else [name]
    began = time.time()
    subprocess.run(
        [*kubectl, "apply", "-f", "-"], input=json.dumps(manifest), text=True, check=True, capture_output=True
    )
    while True:
        answer = subprocess.run([*kubectl, "logs", *of], capture_output=True, text=True, check=False)
        lines = [line for line in answer.stdout.splitlines() if line.replace(".", "").isdigit()]
        if lines:
            break
        assert time.time() - began < 300, answer.stderr
        time.sleep(0.5)
    subprocess.run(
        [*kubectl, "delete", "-f", "-"], input=json.dumps(manifest), text=True, check=True, capture_output=True
    )
    return float(lines[-1]) - began


if __name__ == "__main__":
    main((sys.argv[1:] or ["scikit-learn==1.5.2 pandas"])[0].split())
