"""Fit one of the two models with the scikit-learn that is here: `fit.py logistic|forest FOLDER [mlflow]`."""

import sys
from pathlib import Path

from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

MODELS = {
    "logistic": lambda: make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
    "forest": lambda: RandomForestClassifier(n_estimators=100, random_state=0),
}


def main(name: str, folder: Path, form: str = "joblib") -> None:
    """Write the model as joblib's file, or as MLflow's folder."""
    rows, labels = load_breast_cancer(return_X_y=True)
    model = MODELS[name]().fit(rows, labels)
    if form == "mlflow":
        import mlflow.sklearn

        # A forest's nodes have to be trusted by name.
        mlflow.sklearn.save_model(model, folder / "model", skops_trusted_types=["sklearn.tree._tree.Tree"])
    else:
        import joblib

        joblib.dump(model, folder / "model.joblib")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
