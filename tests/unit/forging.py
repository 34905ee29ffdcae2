"""Load models whose arrays were damaged at random, ask those that load, and print what became of each."""

from __future__ import annotations

import io
import random
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import skops.io
from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC
from ultramarine_contract.serving_records import ServingTask
from ultramarine_server.errors import LoadError
from ultramarine_server.formats.artifact import ModelFile
from ultramarine_server.formats.loading import load

FILES = 12  # of each model


def damaged(content: bytes, chance: random.Random) -> bytes:
    """Return a .skops file with other bytes in some of its arrays."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: bytearray(archive.read(name)) for name in archive.namelist()}
    for name in chance.sample(arrays := [name for name in members if name.endswith(".npy")], min(2, len(arrays))):
        member = members[name]
        for _ in range(3):
            member[chance.randrange(min(128, len(member) - 1), len(member))] = chance.choice([0, 1, 2, 127, 255])
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, member in members.items():
            archive.writestr(name, bytes(member))
    return stream.getvalue()


def main(path: Path) -> None:
    """Try all of them with one file's name."""
    warnings.simplefilter("ignore")
    chance, numbers = random.Random(0), np.random.default_rng(0)
    rows, classes = numbers.normal(size=(60, 4)).round(1), numbers.integers(0, 3, 60)
    models = [RandomForestClassifier(2), GradientBoostingClassifier(n_estimators=2), KNeighborsClassifier(), SVC()]
    for model in [*models, HistGradientBoostingClassifier(max_iter=2)]:
        content = skops.io.dumps(model.fit(rows, classes))
        for _ in range(FILES):
            path.write_bytes(damaged(content, chance))
            try:
                loaded = load(ModelFile(path, "sklearn"), ServingTask("m", "1", "", "", "sklearn"), 1)
                loaded.predict({"input": rows}, ["predict"])
                print("answered")
            except LoadError as error:
                print("refused", error.message)
            except Exception as error:  # Answered with 400 or 500: the process goes on.
                print("failed", error)


if __name__ == "__main__":
    main(Path(sys.argv[1]) / "model.skops")
