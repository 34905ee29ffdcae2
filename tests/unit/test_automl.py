"""AutoML: the space that is searched, and the programs that prepare, try and finish."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import skops.io
from sklearn.datasets import load_breast_cancer, load_wine
from ultramarine_contract.automl import (
    ENV_AUTOML_TASK,
    METRICS,
    AutoMLSummary,
    AutoMLTask,
    LeaderboardRow,
    algorithms,
    goal_of,
    metric_of,
    portfolio,
    search_space,
)
from ultramarine_contract.common import EXIT_DO_NOT_RETRY
from ultramarine_contract.parameters import as_text
from ultramarine_contract.searchspace import read_points, read_space
from ultramarine_contract.serving_records import ServingTask
from ultramarine_server.formats.artifact import ModelFile
from ultramarine_server.formats.loading import load
from ultramarine_trainer.automl.__main__ import main
from ultramarine_trainer.automl.ensemble import Candidate, select
from ultramarine_trainer.automl.finish import alone, finish
from ultramarine_trainer.automl.pipelines import build
from ultramarine_trainer.automl.plan import FOLD, AutoMLError, Plan, read_plan, search_rows, untouched_rows
from ultramarine_trainer.automl.prepare import prepare
from ultramarine_trainer.automl.scoring import is_better
from ultramarine_trainer.automl.trial import fit, run_trial


@pytest.mark.parametrize("task", METRICS)
@pytest.mark.parametrize("block", [(), ("hist_gradient_boosting", "svm")])
def test_the_portfolio_lies_in_the_space_of_every_metric(task: str, block: tuple[str, ...]) -> None:
    for metric in ("auto", *METRICS[task]):
        own = AutoMLTask(task, "y", metric, block=block)  # type: ignore[arg-type]
        space = read_space(search_space(own))
        starts = read_points(space, portfolio(own))
        assert 8 <= len(starts) <= 16
        assert not {start["algorithm"] for start in starts} & set(block)
        assert AutoMLTask.from_json(own.to_json()) == own


def test_a_metric_or_an_algorithm_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(ValueError, match=r"no metric r2.*log_loss"):
        metric_of(AutoMLTask("classification", "y", "r2"))
    with pytest.raises(ValueError, match=r"no algorithm ridge.*logistic"):
        search_space(AutoMLTask("classification", "y", block=("ridge",)))
    assert goal_of(AutoMLTask("classification", "y")) == "minimize"
    assert goal_of(AutoMLTask("regression", "y", "r2")) == "maximize"


# ---- Preparation


def mixed(rows: int = 300) -> pd.DataFrame:
    """Return a table with all types of columns and missing values; amount, city and note say who churned."""
    random = np.random.default_rng(0)
    words = ["good", "bad", "fine", "ugly", "nice", "late", "soon"]
    frame = pd.DataFrame(
        {
            "id": range(rows),
            "amount": random.lognormal(3, 1, rows).round(2),
            "active": random.choice([True, False], rows),
            "city": random.choice(["Bonn", "Kiel", "Ulm"], rows),
            "shop": [f"s{number}" for number in random.integers(0, 60, rows)],
            "note": [" ".join(random.choice(words, 6)) for _ in range(rows)],
            "day": [f"2024-{1 + row % 12:02}-{1 + row % 28:02}" for row in range(rows)],
            "other": [f"{1 + row % 28:02}.{1 + row % 12:02}.2024" for row in range(rows)],
            "empty": None,
            "version": 1,
        }
    )
    value = np.log(frame.amount) - 3 + (frame.city == "Bonn") * 1.5 + frame.note.str.count("good") * 0.5
    value = value + random.normal(0, 0.3, rows)
    for column in ("amount", "city", "day", "note"):
        frame.loc[random.random(rows) < 0.25, column] = None
    return frame.assign(churned=np.where(value > 0.8, "yes", "no"), price=value)


def prepared(folder: Path, table: pd.DataFrame, task: AutoMLTask) -> Path:
    """Return the folder of a table that was prepared."""
    (folder / "data").mkdir(exist_ok=True)
    table.to_csv(folder / "data" / "table.csv", index=False)
    prepare(task, folder / "data", folder / "prepared")
    return folder / "prepared"


def test_a_table_gets_types_folds_and_guardrails(tmp_path: Path) -> None:
    task = AutoMLTask("classification", "churned", drop=("price",))
    plan = read_plan(prepared(tmp_path, mixed(), task))
    assert {column.name: column.type for column in plan.columns} == {
        "amount": "numeric",
        "active": "numeric",
        "city": "categorical",
        "shop": "categorical",
        "note": "text",
        "day": "date",
        "other": "categorical",
    }
    noticed = {(guardrail.name, guardrail.column) for guardrail in plan.guardrails}
    assert noticed >= {("idLike", "id"), ("dateFormat", "other"), ("empty", "empty"), ("constant", "version")}
    assert noticed >= {("missing", "amount"), ("missing", "city")}
    search, test = search_rows(tmp_path / "prepared"), untouched_rows(tmp_path / "prepared")
    assert (len(search), len(test)) == (plan.rows, plan.test_rows) == (240, 60)
    shares = search.groupby(FOLD).churned.agg(lambda values: (values == "yes").mean())
    assert len(shares) == 5
    assert shares.max() - shares.min() < 0.05
    assert plan.classes == ("no", "yes")
    assert 0.5 < plan.baseline < 0.7


def test_numbers_may_have_decimal_commas(tmp_path: Path) -> None:
    """They are numbers if a comma cannot be one of thousands alone; a person who gives the type keeps the text."""
    rows = range(100)
    area = [f"{row + 1}.000,5" if row % 2 else f"-{row},25" if row % 3 else str(row) for row in rows]
    table = pd.DataFrame({"area": area, "people": [f"{row + 1},000" for row in rows], "given": area, "y": rows})
    (tmp_path / "data").mkdir()
    table.to_csv(tmp_path / "data" / "table.csv", index=False, sep=";")
    plan = prepare(AutoMLTask("regression", "y", types={"given": "id"}), tmp_path / "data", tmp_path / "prepared")
    assert {column.name: column.type for column in plan.columns}["area"] == "numeric"
    assert [own.column for own in plan.guardrails if own.name == "decimalComma"] == ["area"]
    search = search_rows(tmp_path / "prepared").set_index("y")
    untouched = untouched_rows(tmp_path / "prepared").set_index("y")
    assert [pd.concat([search, untouched]).area[row] for row in (0, 1, 2)] == [0.0, 2000.5, -2.25]


def test_classes_with_commas_stay_words(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    table = pd.DataFrame({"a": range(60), "size": ["0,5", "1,25", "2,5"] * 20})
    table.to_csv(tmp_path / "data" / "table.csv", index=False, sep=";")
    plan = prepare(AutoMLTask("classification", "size"), tmp_path / "data", tmp_path / "prepared")
    assert plan.classes == ("0,5", "1,25", "2,5")


def test_leakage_imbalance_and_order_are_told(tmp_path: Path) -> None:
    table = load_breast_cancer(as_frame=True).frame
    table = pd.concat([table[table.target == 1], table[table.target == 0][:15]]).reset_index(drop=True)
    table = pd.concat([table, table[:40]]).assign(cause=lambda own: own.target * 2.0 + 1)
    table = table.sample(frac=1, random_state=0).assign(when=range(len(table)))
    task = AutoMLTask("classification", "target", time="when", types={"when": "id"})
    noticed = {
        (guardrail.name, guardrail.column) for guardrail in read_plan(prepared(tmp_path, table, task)).guardrails
    }
    assert noticed >= {("leakage", "cause"), ("imbalance", "target"), ("timeSplit", "when")}
    assert search_rows(tmp_path / "prepared")["when"].max() < untouched_rows(tmp_path / "prepared")["when"].min()


def test_rows_of_a_group_stay_together(tmp_path: Path) -> None:
    table = load_wine(as_frame=True).frame
    table["farm"] = np.arange(len(table)) // 3
    folder = prepared(
        tmp_path, table.sample(frac=1, random_state=0), AutoMLTask("classification", "target", group="farm")
    )
    assert ("groupSplit", "farm") in {(item.name, item.column) for item in read_plan(folder).guardrails}
    both = pd.concat([search_rows(folder), untouched_rows(folder).assign(**{FOLD: 9})])
    merged = both.merge(table.drop_duplicates(), on=[name for name in table.columns if name != "farm"])
    assert (merged.groupby("farm")[FOLD].nunique() == 1).all()


def _wine(**columns: Any) -> pd.DataFrame:
    return load_wine(as_frame=True).frame.assign(**columns)


@pytest.mark.parametrize(
    ("table", "task", "message"),
    [
        (_wine(), AutoMLTask("classification", "targte"), r"target targte is not a column.*Did you mean target\?"),
        (
            _wine(target=1),
            AutoMLTask("classification", "target"),
            "target, the target, has the value 1 in all 178 rows",
        ),
        (_wine()[:15], AutoMLTask("classification", "target"), "the table has 15 rows, and a search needs at least 20"),
        (
            _wine(target=lambda own: own.target.where(own.index < 50)),
            AutoMLTask("classification", "target"),
            "target, the target, is missing in 128 of 178 rows",
        ),
        (
            _wine(target=lambda own: own.target.where(own.index > 0, 7)),
            AutoMLTask("classification", "target"),
            "has 1 classes with one row: 7",
        ),
        (
            _wine(target=lambda own: own.target.map({0: "low", 1: "mid", 2: "high"})),
            AutoMLTask("regression", "target"),
            "target, the target, is not a number in 178 of 178 rows, such as 'low'",
        ),
        (_wine(), AutoMLTask("classification", "alcohol"), "alcohol, the target, has 126 fractional values"),
        (_wine(), AutoMLTask("classification", "target", metric="r2"), "classification has no metric r2"),
        (_wine().rename(columns={"hue": "ash"}), AutoMLTask("classification", "target"), "column ash occurs 2 times"),
        (_wine(w=-1), AutoMLTask("classification", "target", weight="w"), "w, the weight, is not a number of at least"),
        (_wine()[["target"]].assign(one=1), AutoMLTask("classification", "target"), "no column is left to predict"),
        (pd.DataFrame({"a": range(2500), "y": range(2500)}), AutoMLTask("classification", "y"), "has 2,500 classes"),
    ],
)
def test_a_mistake_is_one_sentence_with_column_count_and_remedy(
    tmp_path: Path, table: pd.DataFrame, task: AutoMLTask, message: str
) -> None:
    with pytest.raises(AutoMLError, match=message):
        prepared(tmp_path, table, task)


def test_the_program_ends_with_the_sentence_and_is_not_retried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(ENV_AUTOML_TASK, AutoMLTask("regression", "y").to_json())
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "t.jsonl").write_text('{"x": 1}\n' * 30)
    arguments = ["prepare", "--data", str(tmp_path / "data"), "--prepared", str(tmp_path / "out")]
    assert main(arguments) == EXIT_DO_NOT_RETRY
    assert capsys.readouterr().err == "target y is not a column of the table. It has x.\n"


# ---- Trials


def try_all(folder: Path, task: AutoMLTask, starts: list[dict[str, Any]]) -> list[LeaderboardRow]:
    """Return the facts of these trials, whose folders are beside the prepared data."""
    return [
        run_trial(folder / "prepared", folder / "candidates" / str(place), arguments(start))
        for place, start in enumerate(starts)
    ]


def arguments(params: Mapping[str, Any]) -> list[str]:
    """Return parameters as a trial's command has them."""
    return [f"{name}={as_text(value)}" for name, value in params.items()]


@pytest.mark.parametrize(
    ("kind", "target", "drop"), [("classification", "churned", "price"), ("regression", "price", "churned")]
)
def test_every_algorithm_fits_every_type_of_column_and_is_served_without_permission(
    tmp_path: Path, kind: Any, target: str, drop: str
) -> None:
    task = AutoMLTask(kind, target, folds=2, drop=(drop,))
    plan = read_plan(prepared(tmp_path, mixed(120), task))
    starts = list({start["algorithm"]: start for start in reversed(portfolio(task))}.values())
    facts = try_all(tmp_path, task, starts)
    assert {fact.algorithm for fact in facts} == set(algorithms(task))
    assert sum(is_better(plan.goal, fact.score, plan.baseline) for fact in facts) >= len(facts) - 2
    predictions = np.load(tmp_path / "candidates" / "0" / "oof.npy")
    assert predictions.shape == ((96, 2) if plan.classes else (96,))
    assert np.isfinite(predictions).all()
    search, test = search_rows(tmp_path / "prepared"), untouched_rows(tmp_path / "prepared")
    for start in starts:
        fitted = fit(plan, build(plan, start), search)
        skops.io.dump(fitted, tmp_path / "model.skops")
        file, serving = ModelFile(tmp_path / "model.skops", "sklearn"), ServingTask("m", "1", "", "", "sklearn")
        served: Any = load(file, serving, 1)
        rows = test[plan.features]
        np.testing.assert_array_equal(served.estimator.predict(rows), fitted.predict(rows))


def test_a_trial_prints_its_running_score_and_is_the_same_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = prepared(
        tmp_path, load_breast_cancer(as_frame=True).frame, AutoMLTask("classification", "target", "roc_auc")
    )
    command = ["trial", "--prepared", str(folder), "--candidate", str(tmp_path / "one"), "algorithm=logistic"]
    assert main([*command, "logistic_C=1.0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" ")[0] for line in lines[:5]] == [f"step={fold}" for fold in range(1, 6)]
    assert 0.98 < float(lines[4].split("score=")[1]) < 1
    assert "fit_seconds=" in lines[5]
    assert main([*command, "logistic_C=1.0"]) == 0
    assert capsys.readouterr().out.splitlines()[:5] == lines[:5]
    assert main([*command[:-1], "algorithm=magic"]) == EXIT_DO_NOT_RETRY
    assert "algorithm=magic is not one of logistic" in capsys.readouterr().err


def test_a_fold_that_would_overrun_the_deadline_is_ended(tmp_path: Path) -> None:
    task = AutoMLTask("classification", "target", deadline=time.time() + 1.5)
    table = pd.concat([load_breast_cancer(as_frame=True).frame] * 8)
    folder = prepared(tmp_path, table, task)
    params = ["algorithm=hist_gradient_boosting", *(f"hist_gradient_boosting_{own}" for own in ("max_iter=100000",))]
    command = ["trial", "--prepared", str(folder), "--candidate", str(tmp_path / "one"), *params]
    began = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-m", "ultramarine_trainer.automl", *command],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": ":".join(sys.path)},
        check=False,
    )
    assert ended.returncode == EXIT_DO_NOT_RETRY
    assert "Raise limits.timeoutSeconds" in ended.stderr
    assert time.monotonic() - began < 15


# ---- The end


_LOAD = """
import sys
for name in ("ultramarine", "ultramarine_contract", "ultramarine_trainer", "ultramarine_data"):
    sys.modules[name] = None  # importing it raises ImportError
import pandas as pd, skops.io
types = skops.io.get_untrusted_types(file=sys.argv[1])
assert not [name for name in types if name.startswith("ultramarine")], types
model = skops.io.load(sys.argv[1], trusted=types)
rows = pd.read_parquet(sys.argv[2])
print(list(model.predict(rows))[:3])
rows = pd.DataFrame([{name: None for name in rows.columns}])
print(list(model.predict(rows)))
"""


def run(*command: object) -> str:
    """Return what Python prints for a command without this repository's packages."""
    return subprocess.run([sys.executable, "-I", *map(str, command)], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    ("kind", "target", "drop"), [("classification", "churned", "price"), ("regression", "price", "churned")]
)
def test_the_winner_loads_with_scikit_learn_alone_and_its_code_repeats_the_score(
    tmp_path: Path, kind: Any, target: str, drop: str
) -> None:
    task = AutoMLTask(kind, target, folds=3, drop=(drop,))
    folder = prepared(tmp_path, mixed(200), task)
    quick = [start for start in portfolio(task) if start["algorithm"] in ("logistic", "ridge", "svm")]
    facts = try_all(tmp_path, task, quick)
    summary = finish(folder, tmp_path / "candidates", tmp_path / "model", tmp_path / "report")
    scores = sorted((fact.score for fact in facts), reverse=summary.goal == "maximize")
    assert [row.score for row in summary.leaderboard] == scores
    assert not is_better(summary.goal, scores[0], summary.best.score)
    assert is_better(summary.goal, summary.test_score, summary.baseline)
    assert summary.low < summary.test_score < summary.high
    assert AutoMLSummary.from_json((tmp_path / "report" / "summary.json").read_text()) == summary
    answers = run("-c", _LOAD, tmp_path / "model" / "model.skops", folder / "test.parquet").splitlines()
    assert len(answers) == 2  # of three rows, and of one whose values are all missing
    printed = run(tmp_path / "report" / "train.py", folder / "search.parquet")
    assert float(printed.split("=")[1]) == pytest.approx(summary.best.score, rel=1e-6)
    board = pd.read_parquet(tmp_path / "report" / "leaderboard.parquet")
    assert list(board.algorithm)[-1] == "baseline"


@pytest.mark.parametrize(
    "task",
    [
        AutoMLTask("classification", "target", "roc_auc", folds=3, weight="w", ensemble=False),
        AutoMLTask("classification", "target", "balanced_accuracy", folds=3, time="when"),
    ],
)
def test_code_repeats_scores_with_weights_and_with_an_order(tmp_path: Path, task: AutoMLTask) -> None:
    table = _wine(w=np.linspace(1, 3, 178)).sample(frac=1, random_state=0).assign(when=range(178))
    folder = prepared(tmp_path, table, task)
    starts = [start for start in portfolio(task) if start["algorithm"] in ("naive_bayes", "knn")]
    try_all(tmp_path, task, starts)
    summary = finish(folder, tmp_path / "candidates", tmp_path / "model", tmp_path / "report")
    printed = run(tmp_path / "report" / "train.py", folder / "search.parquet")
    assert float(printed.split("=")[1]) == pytest.approx(summary.best.score, rel=1e-6)


def test_an_ensemble_is_kept_only_if_it_gains_more_than_noise() -> None:
    random = np.random.default_rng(0)
    y, folds = random.normal(0, 1, 500), np.arange(500) % 5
    plan = Plan(AutoMLTask("regression", "y"), "rmse", "minimize", (), rows=500)

    def candidate(*noise: Any) -> Candidate:
        predictions = y + sum(noise)
        score = float(np.sqrt(np.mean((predictions - y) ** 2)))
        return Candidate(LeaderboardRow("ridge", score), predictions)

    one, other = (random.normal(0, 0.5, 500) for _ in range(2))
    ensemble = select(plan, [candidate(one), candidate(other)], y, folds, None)
    assert ensemble is not None
    assert set(ensemble.weights) == {0, 1}
    assert ensemble.score < 0.4
    assert select(plan, [candidate(one), candidate(one)], y, folds, None) is None
    assert select(plan, [candidate(one * 0.1), candidate(other)], y, folds, None) is None


def test_little_time_leaves_the_ensemble_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = AutoMLTask("classification", "target", folds=3)
    folder = prepared(tmp_path, _wine(), task)
    with pytest.raises(AutoMLError, match="no trial has ended well"):
        finish(folder, tmp_path / "candidates", tmp_path / "model", tmp_path / "report")
    try_all(tmp_path, task, [start for start in portfolio(task) if start["algorithm"] in ("knn", "logistic")])
    monkeypatch.setattr("ultramarine_trainer.automl.finish._time", lambda plan: 0.0)
    assert not finish(folder, tmp_path / "candidates", tmp_path / "model", tmp_path / "report").weights


def test_a_candidate_worse_than_the_baseline_is_not_chosen_for_its_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan(AutoMLTask("regression", "y"), "rmse", "minimize", (), rows=500, baseline=100.0)
    rows = [LeaderboardRow("forest", 10.0, fit_seconds=90.0), LeaderboardRow("ridge", 50.0, fit_seconds=20.0)]
    candidates = [Candidate(row, np.zeros(1)) for row in [*rows, LeaderboardRow("knn", 900.0, fit_seconds=0.1)]]
    monkeypatch.setattr("ultramarine_trainer.automl.finish._time", lambda plan: 15.0)
    assert alone(plan, candidates) == 1
    monkeypatch.setattr("ultramarine_trainer.automl.finish._time", lambda plan: 1.0)
    assert alone(plan, candidates) == 1
    assert alone(plan, candidates[2:]) == 0


def test_the_report_is_one_page_that_names_its_figures_and_runs_nothing(tmp_path: Path) -> None:
    task = AutoMLTask("classification", "target", folds=3)
    table = _wine(**{"<script>alert(1)</script>": lambda own: own.hue * 2})
    folder = prepared(tmp_path, table, task)
    try_all(tmp_path, task, [start for start in portfolio(task) if start["algorithm"] in ("knn", "naive_bayes")])
    summary = finish(folder, tmp_path / "candidates", tmp_path / "model", tmp_path / "report")
    text = (tmp_path / "report" / "report.html").read_text()
    assert f"{summary.test_score:.4g}" in text
    for title in ("Leaderboard", "Learning of the search", "Confusion matrix", "Calibration", "Columns that matter"):
        assert f"<h2>{title}</h2>" in text
    assert "<script" not in text
    assert "http" not in text
    assert text.count('<svg role="img" aria-label="') == 4
