"""The model behind LitServe, as its documentation shows. `litserve_sklearn.py FOLDER PORT`."""

import sys
from typing import Any

import joblib
import litserve
import numpy as np


class Cancer(litserve.LitAPI):  # type: ignore[misc]
    """One model in one worker process."""

    def setup(self, device: str) -> None:
        self.model = joblib.load(f"{sys.argv[1]}/model.joblib")

    def decode_request(self, request: dict[str, Any]) -> Any:
        return np.array(request["rows"])

    def predict(self, rows: Any) -> Any:
        return self.model.predict(rows)

    def encode_response(self, labels: Any) -> dict[str, Any]:
        return {"predictions": labels.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(Cancer(), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[2]), generate_client_file=False, log_level="warning")
