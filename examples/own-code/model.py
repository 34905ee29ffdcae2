"""Class that the endpoint runs: an estimator behind features of its own."""

import skops.io
from features import COLUMNS, matrix

SIGNATURE = {
    "inputs": [{"name": name, "datatype": "FP64", "shape": [-1]} for name in COLUMNS],
    "outputs": [{"name": "cultivar", "datatype": "INT64", "shape": [-1]}],
}


class Model:
    """Classifier of wines: a value of each column becomes the cultivar, 0 to 2."""

    signature = SIGNATURE

    def load(self, folder):
        self._estimator = skops.io.load(folder / "estimator.skops")

    def predict(self, inputs):
        if (inputs["hue"] < 0).any():
            raise ValueError("hue must not be negative")  # the caller gets 400 with these words
        return {"cultivar": self._estimator.predict(matrix(inputs))}
