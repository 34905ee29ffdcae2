"""Model of format python that needs a package of its environment."""

import os

import only_here


class Model:
    signature = {
        "inputs": [{"name": "x", "datatype": "FP64", "shape": [-1, 1]}],
        "outputs": [{"name": "y", "datatype": "FP64", "shape": [-1, 1]}],
    }

    def predict(self, inputs):
        first = inputs["x"][0, 0]
        if first < 0:
            raise ValueError("x must not be negative")
        if first == 13:
            raise RuntimeError("secret detail")
        if first == 7:
            os._exit(7)
        inputs["x"] += only_here.ANSWER
        return {"y": inputs["x"]}
