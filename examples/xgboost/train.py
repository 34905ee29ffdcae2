"""Trains gradient-boosted trees on several nodes, each with its own share of the rows."""

import os
import sys
from pathlib import Path

import numpy as np
import xgboost
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from xgboost import Booster, DMatrix, collective
from xgboost.callback import TrainingCallback

ROUNDS = 60
PARAMETERS = {"objective": "binary:logistic", "eta": 0.1, "max_depth": 3, "nthread": 1, "seed": 7}
CHECKPOINT = Path("/mnt/checkpoints/state.ubj")


def main(output: Path) -> None:
    # The trainer of node 0 runs the tracker, and the trainers set its address.
    tracker = {
        "dmlc_tracker_uri": os.environ["DMLC_TRACKER_URI"],
        "dmlc_tracker_port": int(os.environ["DMLC_TRACKER_PORT"]),
        "dmlc_task_id": os.environ["DMLC_TASK_ID"],
    }
    with collective.CommunicatorContext(**tracker):
        rank, world = collective.get_rank(), collective.get_world_size()
        features, answers = load_breast_cancer(return_X_y=True)
        features, test, answers, test_answers = train_test_split(features, answers, test_size=0.2, random_state=7)
        mine = DMatrix(features[rank::world], answers[rank::world])
        rows = collective.allreduce(np.array([mine.num_row()]), collective.Op.SUM)[0]  # the whole data set
        if rank == 0:
            print(f"world={world} rows={rows}", flush=True)

        # Each node has the newest checkpoint when the command starts.
        model = Booster(PARAMETERS, model_file=CHECKPOINT) if CHECKPOINT.exists() else None
        model = xgboost.train(
            PARAMETERS,
            mine,
            num_boost_round=ROUNDS - (model.num_boosted_rounds() if model else 0),
            xgb_model=model,
            evals=[(mine, "train")],
            verbose_eval=False,
            callbacks=[Report(rank)],
        )
        if rank == 0:
            right = (model.inplace_predict(test) > 0.5) == test_answers
            print(f"accuracy={right.mean():.4f}", flush=True)
            save(model, output / "model.ubj")


class Report(TrainingCallback):
    """Callback that prints progress and writes checkpoints, on rank 0."""

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def after_iteration(self, model: Booster, epoch: int, evals_log: dict) -> bool:
        """Called after each round, with the losses over the rows of all nodes; a true result would end the training."""
        step, loss = model.num_boosted_rounds(), evals_log["train"]["logloss"][-1]
        if self.rank == 0 and step % 5 == 0:
            print(f"step={step} total_steps={ROUNDS} loss={loss:.4f}", flush=True)
        if self.rank == 0 and step % 20 == 0:
            save(model, CHECKPOINT)
        return False


def save(model: Booster, path: Path) -> None:
    """Write the file atomically."""
    part = path.with_name(f"part-{path.name}")  # XGBoost uses the suffix
    model.save_model(part)
    part.replace(path)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "/mnt/outputs/model"))
