"""A disk that fills up is told of in time."""

from __future__ import annotations

from pathlib import Path

from ultramarine_trainer.attempt.resources import DiskWatch
from unit.conftest import eventually


def test_a_disk_that_fills_up_is_told_of_once_for_each_level():
    """At 85, 90 and 95 percent; again when it was emptied and fills up anew."""
    used = iter([10, 86, 87, 96, 96, 20, 91])
    said: list[str] = []
    ended: list[bool] = []

    def look(folder: Path) -> tuple[int, int, int]:
        percent = next(used, None)
        if percent is None:
            ended.append(True)
            raise OSError
        return 1000, percent * 10, 1000 - percent * 10

    DiskWatch(Path("/"), said.append, look, seconds=0)
    eventually(lambda: bool(ended))
    assert [line.split(" %")[0].rpartition(" ")[2] for line in said] == ["86", "96", "91"]
    assert "140 bytes are left" in said[0]
