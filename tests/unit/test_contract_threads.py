"""Documents that several threads read at the same time."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys, threading
from ultramarine_contract import common

sys.setswitchinterval(1e-6)
INNER = "\\n".join(f"    g{i}: dict[str, list[int]] | None = None" for i in range(40))
OUTER = "\\n".join(f"    f{i}: list[dict[str, Inner]] | None = None" for i in range(40))
SOURCE = f"class Inner(common.Struct):\\n{INNER}\\nclass Outer(common.Struct):\\n{OUTER}\\n"
for _ in range(300):
    names = {"common": common, "__name__": "__main__"}
    exec(SOURCE, names)
    globals()["Inner"] = names["Inner"]
    gate = threading.Barrier(4)

    def read():
        gate.wait()
        common.decode(names["Outer"], '{"f0": [{"a": {"g39": {"b": [1]}}}]}', "a document")

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
print("all read")
"""


def test_threads_that_read_a_document_for_the_first_time_do_not_crash():
    """msgspec 0.22.0 ends the process by a segmentation fault where threads prepare one type at the same time."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=240, check=False)
    assert (done.returncode, done.stdout) == (0, "all read\n"), done.stderr
