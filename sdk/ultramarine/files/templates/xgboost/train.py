"""Trains gradient-boosted trees that classify tumors, and writes them into the folder of --output."""

import argparse
from pathlib import Path

import xgboost
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--output", type=Path, default=Path("outputs/model"), help="folder of the model")
parser.add_argument("--rounds", type=int, default=60, help="number of trees")
parser.add_argument("--learning-rate", type=float, default=0.1, help="weight of each tree")
arguments = parser.parse_args()

# For data of your own, add an input to ultramarine.yaml and read it here, such as by pandas.read_csv.
features, target = load_breast_cancer(return_X_y=True)
train, test, train_target, test_target = train_test_split(features, target, test_size=0.2, random_state=7)


class Progress(xgboost.callback.TrainingCallback):
    """Printer of steps; printed NAME=VALUE words become progress and metrics of the job."""

    def after_iteration(self, model, epoch, evals_log):
        loss = evals_log["test"]["logloss"][-1]
        print(f"step={epoch + 1} total_steps={arguments.rounds} loss={loss:.4f}", flush=True)
        return False


held_out = xgboost.DMatrix(test, test_target)
model = xgboost.train(
    {"objective": "binary:logistic", "eta": arguments.learning_rate, "max_depth": 3, "seed": 7},
    xgboost.DMatrix(train, train_target),
    num_boost_round=arguments.rounds,
    evals=[(held_out, "test")],
    verbose_eval=False,
    callbacks=[Progress()],
)
accuracy = ((model.predict(held_out) > 0.5) == test_target).mean()
print(f"accuracy={accuracy:.4f}")

arguments.output.mkdir(parents=True, exist_ok=True)
model.save_model(arguments.output / "model.ubj")
