"""A container that is deleted while its program is still being imported ends at once."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from ultramarine_cluster.paths import REPOSITORY

IMPORTING = """
from ultramarine_contract.signals import exit_on_signals
exit_on_signals()
print("importing", flush=True)
import time
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_process_of_a_container_ends_while_it_is_imported(number):
    """Process 1 of a PID namespace, to which signals without a handler are not delivered, exits with 128 and more."""
    argv = ["unshare", "--pid", "--fork", sys.executable, "-c", IMPORTING]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as outside:
        try:
            assert outside.stdout is not None
            assert outside.stdout.readline() == "importing\n"
            [child] = Path(f"/proc/{outside.pid}/task/{outside.pid}/children").read_text().split()
            os.kill(int(child), number)
            assert outside.wait(60) == 128 + number
        finally:
            outside.kill()


@pytest.mark.parametrize("program", [*REPOSITORY.glob("*-image/ultramarine-*")], ids=lambda path: path.name)
def test_every_program_of_an_image_begins_with_it(program):
    """Before anything that takes long is imported; what is not process 1 of a container needs none."""
    if program.name not in ("ultramarine-rsh", "ultramarine-gateway"):
        imports = re.findall(r"^(?:from (\S+) import|(exit_on_signals)\(\))", program.read_text(), re.MULTILINE)
        assert [one or call for one, call in imports][:2] == ["ultramarine_contract.signals", "exit_on_signals"]
