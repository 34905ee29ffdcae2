"""Store the demo's data without some packages: their modules, separated by commas, and the folder of demo.py."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from importlib.abc import MetaPathFinder
from typing import Any

ABSENT = set(sys.argv[1].split(","))


class Absent(MetaPathFinder):
    """Finder that refuses the absent packages."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"the demo's extra lacks {name}", name=name)


class Bucket:
    """Target of an installation whose bucket keeps objects as lines."""

    def __init__(self) -> None:
        self.stored: dict[str, list[str]] = {}

    @contextlib.contextmanager
    def bucket(self, _namespace: str) -> Iterator[Bucket]:
        yield self

    def put_object(self, *, Bucket: str, Key: str, Body: bytes) -> None:
        self.stored[Key] = Body.decode().splitlines()


sys.meta_path.insert(0, Absent())
sys.path.insert(0, sys.argv[2])
import demo  # type: ignore[import-not-found]  # noqa: E402

bucket = Bucket()
rows, answers = demo.chapter_data(bucket)
train = bucket.stored[f"shared/{demo.NAME}/train.csv"]
assert train[0].startswith("mean radius,mean texture,"), train[0]
assert train[0].endswith(",target"), train[0]
assert (len(train), len(rows), len(answers)) == (427, 143, 143), len(train)
