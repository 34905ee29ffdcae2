"""The model as a BentoML service; the folder comes in the variable MODEL_FOLDER."""

import os

import bentoml
import joblib
import numpy as np


@bentoml.service(workers=1)
class Cancer:
    """One model in one worker process."""

    def __init__(self) -> None:
        self.model = joblib.load(f"{os.environ['MODEL_FOLDER']}/model.joblib")

    @bentoml.api  # type: ignore[misc]
    def predict(self, rows: list[list[float]]) -> list[int]:
        """Answer with the labels of the rows."""
        return [int(label) for label in self.model.predict(np.array(rows))]
