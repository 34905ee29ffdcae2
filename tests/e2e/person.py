"""A data scientist at her terminal: the command with her own certificate and one role in one namespace."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import yaml
from conftest import NAMESPACE, Platform
from terminal import Terminal
from ultramarine_cluster import cluster, pki

COMMAND = Path(sys.executable).parent / "ultramarine"
API = {"apiVersion": "ultramarine.dev/v1alpha1"}


class Person:
    """A user of the command, in a folder of her own."""

    def __init__(self, folder: Path, kubeconfig: Path) -> None:
        self.folder, self.kubeconfig = folder, kubeconfig
        self.environment = {
            **os.environ,
            "KUBECONFIG": str(kubeconfig),
            "XDG_CONFIG_HOME": str(kubeconfig.parent / "config"),
            "NO_COLOR": "1",
            "COLUMNS": "200",
        }

    def begin(self, *words: str) -> subprocess.Popen[str]:
        """Start the command."""
        return subprocess.Popen(
            [str(COMMAND), *words],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A suite in the background ignores the signal, and its children would too.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    def run(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run the command to its end; another exit code than `code` fails with what it printed."""
        process = self.begin(*words)
        out, err = process.communicate(timeout=300)
        assert process.returncode == code, f"{words}: {process.returncode}\n{out}\n{err}"
        return subprocess.CompletedProcess(words, code, out, err)

    def at_a_terminal(self, folder: Path) -> Terminal:
        """Return a terminal with a shell in the user's folder; `folder` is for its own files."""
        names = ("KUBECONFIG", "XDG_CONFIG_HOME", "XDG_CACHE_HOME")
        variables = {name: self.environment[name] for name in names if name in self.environment}
        exports = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
        return Terminal(folder, "\n".join([*exports, f"PATH={COMMAND.parent}:$PATH", f"cd {self.folder}"]))

    def write(self, name: str, *manifests: object) -> str:
        """Write a file of manifests; return its name."""
        (self.folder / name).write_text(yaml.safe_dump_all([API | dict(manifest) for manifest in manifests]))  # type: ignore[call-overload]
        return name


def data_scientist(platform: Platform, name: str, folder: Path) -> Path:
    """Return the kubeconfig of a new user with the ClusterRole of a data scientist in the namespace of the tests."""
    running = cluster.up()
    authority = pki.Authority(running.state.pki, "ca")
    path = pki.kubeconfig(folder / "kubeconfig", running.url, authority, authority.issue(name, pki.Leaf(name)))
    platform.kubectl("delete", "rolebinding", name, "--ignore-not-found")
    platform.kubectl("create", "rolebinding", name, "--clusterrole=ultramarine-data-scientist", f"--user={name}")
    content = yaml.safe_load(path.read_text())
    content["contexts"][0]["context"]["namespace"] = NAMESPACE
    path.write_text(yaml.safe_dump(content))
    return path
