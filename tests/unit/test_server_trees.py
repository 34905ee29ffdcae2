"""XGBoost's and LightGBM's own files: the server's answers are the library's, and damage is told, not suffered."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import pytest
import skops.io
import xgboost
from sklearn.datasets import load_iris
from sklearn.ensemble import VotingClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from ultramarine_contract.serving_records import ServingTask
from ultramarine_server.errors import BadRequest, LoadError
from ultramarine_server.formats.artifact import ModelFile
from ultramarine_server.formats.loading import load
from ultramarine_server.models.estimator import SklearnModel

FRAME, SPECIES = load_iris(return_X_y=True, as_frame=True)
ROWS, CLASSES = FRAME.to_numpy(), SPECIES.to_numpy()
HOLES = ROWS.copy()
HOLES[::3, 1] = HOLES[::7, 2] = HOLES[5] = np.nan
FEW: dict[str, Any] = {"n_estimators": 12, "max_depth": 3, "n_jobs": 1}


def loaded(path: Path, format: str, signature: dict[str, Any] | None = None) -> Any:
    """Load one file as the server does, without leave to run code."""
    return load(ModelFile(path, format), ServingTask("m", "1", "", "", format, signature=signature), 1)


def answers(model: Any, rows: Any) -> dict[str, Any]:
    """Return all outputs for a matrix."""
    answer: dict[str, Any] = model.predict({"input": rows}, [spec.name for spec in model.signature.outputs])
    return answer


def described(model: Any) -> list[str]:
    return [f"{spec.name} {spec.datatype} {list(spec.shape)}" for spec in model.signature.outputs]


# XGBoost


@pytest.mark.parametrize("suffix", ["json", "ubj"])
@pytest.mark.parametrize(
    ("estimator", "targets", "outputs"),
    [
        (xgboost.XGBClassifier(**FEW), CLASSES > 0, ["predict INT64 [-1]", "predict_proba FP32 [-1, 2]"]),
        (xgboost.XGBClassifier(**FEW), CLASSES, ["predict INT64 [-1]", "predict_proba FP32 [-1, 3]"]),
        (
            xgboost.XGBClassifier(objective="multi:softmax", **FEW),
            CLASSES,
            ["predict INT64 [-1]", "predict_proba FP32 [-1, 3]"],
        ),
        (
            xgboost.XGBClassifier(**FEW),
            np.stack((CLASSES > 0, CLASSES > 1), axis=1),
            ["predict INT64 [-1, 2]", "predict_proba FP32 [-1, 2]"],
        ),
        (xgboost.XGBRegressor(**FEW), ROWS[:, 3], ["predict FP32 [-1]"]),
        (xgboost.XGBRegressor(booster="dart", **FEW), ROWS[:, 3], ["predict FP32 [-1]"]),
        (xgboost.XGBRFRegressor(**FEW), ROWS[:, 3], ["predict FP32 [-1]"]),
        (xgboost.XGBRegressor(booster="gblinear", n_estimators=5), ROWS[:, 3], ["predict FP32 [-1]"]),
    ],
)
def test_an_xgboost_estimator_answers_as_in_the_library(
    tmp_path: Path, suffix: str, estimator: Any, targets: Any, outputs: list[str]
) -> None:
    """Labels, probabilities and values are those of the estimator that was saved, missing values among the rows."""
    estimator.fit(ROWS, targets)
    estimator.save_model(tmp_path / f"model.{suffix}")

    model = loaded(tmp_path / f"model.{suffix}", "xgboost")

    assert described(model) == outputs
    got = answers(model, HOLES)
    np.testing.assert_array_equal(got["predict"], estimator.predict(HOLES))
    if "predict_proba" in got:
        np.testing.assert_allclose(got["predict_proba"], estimator.predict_proba(HOLES), rtol=1e-6)


def test_an_estimator_stops_at_its_best_iteration_and_a_booster_does_not(tmp_path: Path) -> None:
    """Early stopping counts for whom it counts in the library."""
    estimator = xgboost.XGBRegressor(early_stopping_rounds=3, **FEW)
    estimator.fit(ROWS, CLASSES, eval_set=[(ROWS[::9], CLASSES[::-9])], verbose=False)
    estimator.save_model(tmp_path / "estimator.ubj")
    estimator.get_booster().save_model(tmp_path / "booster.ubj")
    whole = estimator.get_booster().predict(xgboost.DMatrix(ROWS))
    assert np.abs(estimator.predict(ROWS) - whole).max() > 0.01

    stopped = answers(loaded(tmp_path / "estimator.ubj", "xgboost"), ROWS)["predict"]
    all_trees = answers(loaded(tmp_path / "booster.ubj", "xgboost"), ROWS)["predict"]

    np.testing.assert_array_equal(stopped, estimator.predict(ROWS))
    np.testing.assert_array_equal(all_trees, whole)


@pytest.mark.parametrize("objective", ["binary:logistic", "multi:softprob", "multi:softmax", "count:poisson"])
def test_a_booster_answers_as_in_the_library(tmp_path: Path, objective: str) -> None:
    """A file of a Booster answers as Booster.predict does."""
    several = {"num_class": 3} if objective.startswith("multi") else {}
    targets = CLASSES if several else CLASSES > 0
    booster = xgboost.train({"objective": objective, **several}, xgboost.DMatrix(ROWS, targets), 5)
    booster.save_model(tmp_path / "model.json")

    got = answers(loaded(tmp_path / "model.json", "xgboost"), HOLES)

    np.testing.assert_array_equal(got["predict"], booster.predict(xgboost.DMatrix(HOLES)))


# LightGBM


@pytest.mark.parametrize(
    ("objective", "targets", "outputs"),
    [
        ("regression", ROWS[:, 3], ["predict FP64 [-1]"]),
        ("binary", CLASSES > 0, ["predict FP64 [-1]"]),
        ("multiclass", CLASSES, ["predict FP64 [-1, 3]"]),
    ],
)
def test_lightgbm_answers_as_in_the_library(tmp_path: Path, objective: str, targets: Any, outputs: list[str]) -> None:
    """A text file gives what Booster.predict gives, missing values among the rows."""
    given = {"objective": objective, "verbose": -1, "num_threads": 1, "num_class": 3 if outputs[0][-2] == "3" else 1}
    booster = lightgbm.train(given, lightgbm.Dataset(HOLES, targets), 12)
    booster.save_model(tmp_path / "model.txt")

    model = loaded(tmp_path / "model.txt", "lightgbm")

    assert described(model) == outputs
    assert model.signature.inputs[0].to_dict() == {"name": "input", "datatype": "FP64", "shape": [-1, 4]}
    np.testing.assert_array_equal(answers(model, HOLES)["predict"], booster.predict(HOLES))


# Both


def written(folder: Path) -> dict[str, tuple[Path, Any]]:
    """Write a model of named columns in either library's format; return the path and the expected answer."""
    grown = xgboost.XGBRegressor(**FEW).fit(FRAME, CLASSES)
    grown.save_model(folder / "model.ubj")
    text = lightgbm.LGBMRegressor(verbose=-1, **FEW).fit(FRAME, CLASSES).booster_
    text.save_model(folder / "model.lgb")
    return {
        "xgboost": (folder / "model.ubj", grown.predict(FRAME)),
        "lightgbm": (folder / "model.lgb", text.predict(FRAME)),
    }


@pytest.mark.parametrize("format", ["xgboost", "lightgbm"])
def test_columns_come_by_name_in_any_order(tmp_path: Path, format: str) -> None:
    """A model of a data frame takes a matrix, its columns by name, and the columns of a registered signature."""
    path, expected = written(tmp_path)[format]
    columns = {name: column.to_numpy() for name, column in FRAME.iloc[:, ::-1].items()}
    declared = {"inputs": [{"name": name, "datatype": "FP32", "shape": [-1]} for name in columns]}

    inferred, registered = loaded(path, format), loaded(path, format, declared)

    np.testing.assert_array_equal(answers(inferred, ROWS)["predict"], expected)
    called = {name if format == "xgboost" else name.replace(" ", "_"): column for name, column in columns.items()}
    assert {spec.name for spec in inferred.expected(list(called))} == set(called)
    np.testing.assert_array_equal(inferred.predict(called, ["predict"])["predict"], expected)
    assert [spec.name for spec in registered.signature.inputs] == list(columns)
    np.testing.assert_array_equal(registered.predict(columns, ["predict"])["predict"], expected)


@pytest.mark.parametrize("format", ["xgboost", "lightgbm"])
def test_several_threads_may_ask(tmp_path: Path, format: str) -> None:
    """Answers do not mix."""
    path, expected = written(tmp_path)[format]
    model = loaded(path, format)

    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda n: answers(model, ROWS[n : n + 5])["predict"], list(range(100)) * 5))

    for start, values in zip(list(range(100)) * 5, got, strict=True):
        np.testing.assert_array_equal(values, expected[start : start + 5])


@pytest.mark.parametrize("format", ["xgboost", "lightgbm"])
def test_whole_numbers_are_taken_and_other_widths_refused(tmp_path: Path, format: str) -> None:
    """A registered INT64 matrix is fine; a row that is too long is the caller's fault."""
    path, _ = written(tmp_path)[format]
    declared = {"inputs": [{"name": "rows", "datatype": "INT64", "shape": [-1, -1]}]}
    model = loaded(path, format, declared)
    whole = ROWS.astype(np.int64)

    same = answers(loaded(path, format), whole.astype(np.float64))["predict"]
    np.testing.assert_array_equal(model.predict({"rows": whole}, ["predict"])["predict"], same)
    with pytest.raises(BadRequest, match="has 4 features; rows of 3 came"):
        model.predict({"rows": whole[:, :3]}, ["predict"])
    with pytest.raises(BadRequest, match="no rows"):
        model.predict({"rows": whole[:0]}, ["predict"])


@pytest.mark.parametrize("format", ["xgboost", "lightgbm"])
@pytest.mark.parametrize(
    "signature",
    [
        {"inputs": [{"name": "rows", "datatype": "FP64", "shape": [-1, 5]}]},
        {"inputs": [{"name": "rows", "datatype": "BYTES", "shape": [-1, 4]}]},
        {"inputs": [{"name": n, "datatype": "FP64", "shape": [-1]} for n in "abcd"]},
        {"outputs": [{"name": "probability", "datatype": "FP64", "shape": [-1]}]},
    ],
)
def test_a_signature_that_is_not_the_models_is_refused(tmp_path: Path, format: str, signature: dict[str, Any]) -> None:
    """A promise of the ModelVersion that the trees cannot keep fails the load."""
    with pytest.raises(LoadError) as caught:
        loaded(written(tmp_path)[format][0], format, signature)

    assert caught.value.reason == "SignatureMismatch"


@pytest.mark.attack("model/damaged-file")
@pytest.mark.parametrize("format", ["xgboost", "lightgbm"])
def test_a_shortened_file_is_said_to_be_that(tmp_path: Path, format: str) -> None:
    """Wherever it ends, the verdict is ModelCorrupt; the libraries alone would end the process or never return."""
    path, _ = written(tmp_path)[format]
    content = path.read_bytes()
    end = content.find(b"\nend of parameters") if format == "lightgbm" else len(content) - 1

    for length in [0, 1, 2, 3, *range(100, end, end // 60), end]:
        path.write_bytes(content[:length])
        with pytest.raises(LoadError, match=f"{path.name} is not a readable {format} model") as caught:
            loaded(path, format)
        assert caught.value.reason == "ModelCorrupt"


@pytest.mark.parametrize(("format", "others"), [("xgboost", "lightgbm"), ("lightgbm", "xgboost")])
def test_the_other_librarys_file_is_refused(tmp_path: Path, format: str, others: str) -> None:
    """A ModelVersion with the wrong format names file and format."""
    with pytest.raises(LoadError, match=f"is not a readable {format} model"):
        loaded(written(tmp_path)[others][0], format)


@pytest.mark.parametrize("estimator", [xgboost.XGBClassifier(**FEW), lightgbm.LGBMClassifier(verbose=-1, **FEW)])
def test_an_estimator_in_a_pipeline_keeps_its_labels(tmp_path: Path, estimator: Any) -> None:
    """A pipeline that skops has stored is served without leave to run code, and answers as it did."""
    pipeline = make_pipeline(StandardScaler(), estimator).fit(ROWS, CLASSES)
    skops.io.dump(pipeline, tmp_path / "model.skops")

    got = answers(loaded(tmp_path / "model.skops", "sklearn"), ROWS)

    np.testing.assert_array_equal(got["predict"], pipeline.predict(ROWS))
    np.testing.assert_allclose(got["predict_proba"], pipeline.predict_proba(ROWS), rtol=1e-6)


def test_categories_of_a_data_frame_are_refused(tmp_path: Path) -> None:
    """Numbers would be taken for the places of the categories, and the answers be wrong without a word."""
    frame = FRAME.assign(site=pd.Categorical(np.where(CLASSES > 0, "north", "south")))
    xgboost.XGBRegressor(enable_categorical=True, **FEW).fit(frame, CLASSES).save_model(tmp_path / "model.ubj")
    text = lightgbm.LGBMRegressor(verbose=-1, **FEW).fit(frame, CLASSES).booster_
    text.save_model(tmp_path / "model.txt")

    for name, format in (("model.ubj", "xgboost"), ("model.txt", "lightgbm")):
        with pytest.raises(LoadError, match="encode them as numbers before training") as caught:
            loaded(tmp_path / name, format)
        assert caught.value.reason == "ModelUnsupported"


def test_estimators_of_categories_are_refused(tmp_path: Path) -> None:
    """Such a model would be ready and refuse each request; behind a function that makes categories it is served."""
    frame = FRAME.assign(site=pd.Categorical(np.where(CLASSES > 0, "north", "south")))
    classifier = lightgbm.LGBMClassifier(verbose=-1, **FEW).fit(frame, CLASSES)
    xgb = xgboost.XGBClassifier(enable_categorical=True, **FEW).fit(frame, CLASSES)
    voting = VotingClassifier([("one", classifier)]).fit(frame, CLASSES)
    skops.io.dump(xgb, tmp_path / "model.skops")

    with pytest.raises(LoadError, match="the XGBClassifier was trained on categories of a data frame") as caught:
        loaded(tmp_path / "model.skops", "sklearn")
    assert caught.value.reason == "ModelUnsupported"
    for estimator in (classifier, voting, Pipeline([("all", "passthrough"), ("last", classifier)])):
        with pytest.raises(LoadError, match=r"LGBM\w+ was trained on .*; encode them as numbers before training"):
            SklearnModel(estimator)
    SklearnModel(Pipeline([("own", FunctionTransformer(pd.DataFrame.copy)), ("last", classifier)]))
    coded = xgboost.XGBClassifier(feature_types=["q", "c"], enable_categorical=True, **FEW)
    SklearnModel(coded.fit(np.stack((ROWS[:, 0], CLASSES), axis=1), CLASSES))
