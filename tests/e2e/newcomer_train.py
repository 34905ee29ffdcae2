"""Trains a forest on a CSV, as a newcomer's own script would: with mlflow.autolog and nothing of the platform's."""

import argparse

import mlflow
import pandas as pd
import skops.io
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import cross_val_score

parser = argparse.ArgumentParser()
parser.add_argument("--data", required=True)
parser.add_argument("--out", required=True)
parser.add_argument("--depth", type=int, default=4)
parser.add_argument("--drop", nargs="*", default=[])
parser.add_argument("--plain", action="store_true", help="log nothing: mlflow takes seconds to store a model")
options = parser.parse_args()

if not options.plain:
    mlflow.autolog()
table = pd.read_csv(options.data).drop(columns=options.drop)
features, target = table.drop(columns="cultivar"), table["cultivar"]
model = RandomForestClassifier(n_estimators=20, max_depth=options.depth, random_state=0)
accuracy = cross_val_score(model, features, target, cv=3).mean()
model.fit(features, target)
print(f"cv_accuracy={accuracy:.4f}")
skops.io.dump(model, f"{options.out}/model.skops")
