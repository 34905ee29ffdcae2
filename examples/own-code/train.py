"""Trains a classifier of wines; argument 1 is the folder of the output."""

import shutil
import sys
from pathlib import Path

import skops.io
from features import matrix
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

output = Path(sys.argv[1])
table = load_wine(as_frame=True).frame
estimator = make_pipeline(StandardScaler(), LogisticRegression())
print(f"cv_accuracy={cross_val_score(estimator, matrix(table), table['target']).mean():.3f}")

skops.io.dump(estimator.fit(matrix(table), table["target"]), output / "estimator.skops")
# The model's code goes with it: the server imports model.py, and the module beside it.
for name in ("model.py", "features.py"):
    shutil.copy(Path(__file__).with_name(name), output / name)
