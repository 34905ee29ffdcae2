"""The model behind KServe's own model server, as its sklearn server does it. `kserve_sklearn.py FOLDER PORT`."""

import sys
from typing import Any

import joblib
import kserve
from kserve.utils.utils import get_predict_input, get_predict_response


class Cancer(kserve.Model):  # type: ignore[misc]
    """One scikit-learn model."""

    def load(self) -> bool:
        self.model = joblib.load(f"{sys.argv[1]}/model.joblib")
        self.ready = True
        return self.ready

    def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:
        rows = get_predict_input(payload)
        return get_predict_response(payload, self.model.predict(rows), self.name)


if __name__ == "__main__":
    model = Cancer("cancer")
    model.load()
    kserve.ModelServer(http_port=int(sys.argv[2]), enable_grpc=False, workers=1, access_log_format=None).start([model])
