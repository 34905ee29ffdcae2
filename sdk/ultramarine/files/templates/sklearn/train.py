"""Trains a classifier of tumors and writes it into the folder of --output."""

import argparse
from pathlib import Path

import skops.io
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--output", type=Path, default=Path("outputs/model"), help="folder of the model")
parser.add_argument("--regularization", type=float, default=0.5, help="inverse strength, above 0")
arguments = parser.parse_args()

# For data of your own, add an input to ultramarine.yaml and read it here, such as by pandas.read_csv.
features, target = load_breast_cancer(return_X_y=True)
model = make_pipeline(StandardScaler(), LogisticRegression(C=arguments.regularization))

# Printed NAME=VALUE words become metrics of the job.
print(f"cv_accuracy={cross_val_score(model, features, target, cv=5).mean():.4f}")

arguments.output.mkdir(parents=True, exist_ok=True)
skops.io.dump(model.fit(features, target), arguments.output / "model.skops")
