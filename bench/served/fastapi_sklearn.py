"""Server written by hand: FastAPI, pydantic, scikit-learn and uvicorn. `fastapi_sklearn.py FOLDER PORT`."""

import sys

import joblib
import numpy as np
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()
model = joblib.load(f"{sys.argv[1]}/model.joblib")


class Question(BaseModel):
    """Rows to classify."""

    rows: list[list[float]]


class Answer(BaseModel):
    """A label for each row."""

    predictions: list[int]


@app.post("/predict")
def predict(question: Question) -> Answer:
    """Answer with the labels of the rows."""
    return Answer(predictions=model.predict(np.array(question.rows)).tolist())


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), access_log=False, log_level="warning")
