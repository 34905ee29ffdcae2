"""What a sweep leaves for people: importances, pictures, a report, and a study that plain Optuna opens."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any
from xml.etree import ElementTree

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.storages.journal import JournalFileBackend, JournalStorage
from optuna.trial import TrialState
from pyarrow import parquet
from ultramarine.shared.searchspace import read_space
from ultramarine_sweep.dominance import elite, front
from ultramarine_sweep.history import FAILED, STOPPED, SUCCEEDED, Trial
from ultramarine_sweep.pictures import pictures, png, svg
from ultramarine_sweep.reasons import KINDS, OTHERS, SHOWN, Reasons
from ultramarine_sweep.report import files, report
from ultramarine_sweep.results import Results
from ultramarine_sweep.study import as_study, study_file
from ultramarine_sweep.suggest import suggest
from ultramarine_sweep.table import table
from ultramarine_sweep.trial import Trial as Own
from unit.sweep_spaces import search_spaces

LOSS = [{"metric": "loss", "goal": "minimize"}]
TWO = [{"metric": "loss", "goal": "minimize"}, {"metric": "accuracy", "goal": "maximize"}]
SPACE = read_space(
    {
        "strong": {"uniform": {"min": 0, "max": 1}},
        "weak": {"logUniform": {"min": 1e-4, "max": 1}},
        "idle": {"int": {"min": 1, "max": 9}},
        "kind": {"choice": ["plain", "<b>bold</b> $x_", "other"]},
        "only": {"uniform": {"min": 0, "max": 1, "step": 0.1}, "when": {"kind": ["plain"]}},
        "fixed": {"constant": True},
    }
)


def a_sweep(objectives: list[dict[str, Any]] = LOSS, many: int = 60, name: str = "team-a/churn") -> Results:
    """A sweep of which some trials failed, some were stopped, and one still runs."""
    chance = Random(1)
    trials = []
    for one in suggest(SPACE, [], many, objectives=LOSS, algorithm="random", seed=3):
        loss = 10 * (float(one.params["strong"]) - 0.3) ** 2 + 0.2 * float(one.params["weak"])
        values = (loss, float(one.params["idle"]))[: len(objectives)]
        if one.number == many - 1:
            trials.append(Trial(one.number, one.params))
        elif one.number % 10 == 3:
            trials.append(Trial(one.number, one.params, FAILED))
        elif one.number % 10 == 5 and len(objectives) == 1:
            trials.append(Trial(one.number, one.params, STOPPED, (), ((1, loss + chance.random()), (3, loss))))
        else:
            trials.append(Trial(one.number, one.params, SUCCEEDED, values, ((1, loss + 1), (9, loss))))
    return Results(name, SPACE, objectives, trials)


def test_importances_tell_what_matters_from_what_does_not() -> None:
    """The parameter that makes most of the difference comes first; one value alone is left out, and all sum to 1."""
    found = a_sweep(many=120).importances

    assert next(iter(found)) == "strong"
    assert found["strong"] > 0.6
    assert set(found) == {"strong", "weak", "idle", "kind", "only"}
    assert sum(found.values()) == pytest.approx(1)


def test_importances_are_those_of_optuna_where_it_has_any() -> None:
    """Optuna's own evaluation of the same study puts the same parameter first."""
    sweep = a_sweep(many=120)

    theirs = optuna.importance.get_param_importances(as_study(sweep))

    assert next(iter(theirs)) == next(iter(sweep.importances))


def test_one_terrible_trial_does_not_decide_what_matters() -> None:
    """A loss of a million, far above all others, leaves the order as it was."""
    sweep = a_sweep(many=120)
    worst = Trial(500, dict(sweep.trials[0].params) | {"idle": 9}, SUCCEEDED, (1e6,))

    assert next(iter(Results("x", SPACE, LOSS, [*sweep.trials, worst]).importances)) == "strong"


@dataclass(frozen=True)
class AnotherTrial:
    """A trial as somebody else keeps it."""

    number: int
    params: dict[str, Any]
    outcome: str
    values: tuple[float, ...]
    points: tuple[tuple[int, float], ...]


def test_a_value_that_is_no_number_is_a_failure_everywhere() -> None:
    """A trial that came to NaN counts as failed in the report and in the study, whoever tells of it; points remain."""
    nan = float("nan")
    told = AnotherTrial(60, dict(a_sweep().trials[0].params), SUCCEEDED, (nan,), ((1, 2.0), (2, nan)))
    sweep = Results("x", SPACE, LOSS, [*a_sweep().trials, told])
    last = as_study(sweep).trials[-1]

    assert "7 failed" in report(sweep, {})
    assert (last.state, last.intermediate_values) == (TrialState.FAIL, {1: 2.0})


def test_too_few_trials_say_nothing_of_parameters() -> None:
    """Before eight trials have succeeded there are no importances."""
    assert a_sweep(many=8).importances == {}


def test_the_best_are_in_order_or_on_the_front() -> None:
    """One objective: all that succeeded, best first. Several: those that no other is better than."""
    single = [trial.values[0] for trial in a_sweep().best]
    double = a_sweep(TWO)

    assert single == sorted(single)
    assert len(single) == 47
    for one in double.best:
        for other in double.history.succeeded():
            better = other.values[0] <= one.values[0] and other.values[1] >= one.values[1]
            assert not better or other.values == one.values


@given(st.lists(st.tuples(*[st.integers(0, 6)] * 3), max_size=40), st.integers(0, 40))
def test_fronts_are_those_of_the_definition(losses: list[tuple[int, int, int]], many: int) -> None:
    """The front is all that nothing is better than; an elite is taken front by front, and never has one twice."""

    def better(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
        return one != other and all(a <= b for a, b in zip(one, other, strict=True))

    expected = [place for place, one in enumerate(losses) if not any(better(other, one) for other in losses)]
    chosen = elite(losses, many)

    assert front(losses) == expected
    assert len(chosen) == len(set(chosen)) == min(many, len(losses))
    assert set(chosen) <= set(expected) or set(expected) <= set(chosen)


def test_a_study_has_all_that_optuna_can_know() -> None:
    """States, values, directions, steps and parameters are there; the names of the metrics too."""
    study = as_study(a_sweep(TWO))

    assert [direction.name for direction in study.directions] == ["MINIMIZE", "MAXIMIZE"]
    assert study.metric_names == ["loss", "accuracy"]
    states = [trial.state for trial in study.trials]
    assert (states.count(TrialState.COMPLETE), states.count(TrialState.FAIL), states.count(TrialState.RUNNING)) == (
        53,
        6,
        1,
    )
    assert {trial.user_attrs["trial"] for trial in study.best_trials} == {trial.number for trial in a_sweep(TWO).best}


def test_optuna_opens_the_file_and_goes_on(tmp_path: Path) -> None:
    """Optuna's own storage reads what a sweep leaves, has the same best trial, and can try more."""
    sweep = a_sweep()
    (tmp_path / "journal.log").write_bytes(study_file(sweep))

    storage = JournalStorage(JournalFileBackend(str(tmp_path / "journal.log")))
    study = optuna.load_study(study_name="team-a/churn", storage=storage)

    assert len(study.trials) == 60
    assert study.best_trial.user_attrs["trial"] == sweep.best[0].number
    assert study.best_trial.intermediate_values.keys() == {1, 9}
    assert study.best_trial.params == sweep.best[0].params
    assert [trial.state for trial in study.trials].count(TrialState.PRUNED) == 6
    study.optimize(lambda trial: trial.suggest_float("strong", 0, 1), n_trials=2)
    assert len(study.trials) == 62


@pytest.mark.parametrize(
    ("objectives", "names"),
    [
        (LOSS, ["history", "importances", "slices", "parallel"]),
        (TWO, ["history", "front", "importances", "slices", "parallel"]),
    ],
    ids=["one", "two"],
)
def test_pictures_are_there_and_readable(objectives: list[dict[str, Any]], names: list[str]) -> None:
    """Each picture is an image of some size, and shapes with the same content, byte by byte the same each time."""
    drawn = pictures(a_sweep(objectives))
    again = pictures(a_sweep(objectives))

    assert list(drawn) == names
    for name, figure in drawn.items():
        shapes = svg(figure)
        assert ElementTree.fromstring(shapes).tag == "{http://www.w3.org/2000/svg}svg"
        assert shapes == svg(again[name])
        assert png(figure).startswith(b"\x89PNG\r\n")


def test_a_report_is_one_file_that_asks_nothing_of_anybody() -> None:
    """The best trials are in a table, pictures are inside, and there is no script, no link and no foreign mark-up."""
    text = report(a_sweep(name="<script>alert(1)</script>"))
    best = a_sweep().best[0]

    assert "60 trials: 47 succeeded, 6 stopped early, 6 failed, 1 running. loss minimised." in text
    assert f"<td>{best.number}</td><td>{best.values[0]:.6g}</td>" in text
    assert text.count("data:image/svg+xml;base64,") == 4
    assert "<script" not in text
    assert "<b>bold" not in text
    assert "http" not in re.sub(r"base64,[^\"]*", "", text)


def test_all_that_is_drawn_of_a_sweep() -> None:
    """A report, and each picture twice."""
    names = set(files(a_sweep()))

    assert names == {"report.html"} | {
        f"pictures/{name}.{kind}"
        for name in ("history", "importances", "slices", "parallel")
        for kind in ("png", "svg")
    }


def test_the_table_has_a_row_for_each_trial() -> None:
    """Number, outcome, parameters and objectives; what a trial does not have is empty."""
    results = a_sweep()
    rows = parquet.read_table(io.BytesIO(table(results))).to_pylist()

    assert len(rows) == len(results.trials)
    for row, trial in zip(rows, sorted(results.trials, key=lambda one: one.number), strict=True):
        assert (row["number"], row["outcome"]) == (trial.number, trial.outcome)
        for name in results.space.names:
            assert row[f"params.{name}"] == trial.params.get(name)
        told = tuple(row[f"values.{metric}"] for metric in results.metrics)
        assert told == (trial.values or (None,) * len(told))


def test_why_trials_failed_is_in_the_table_and_the_report() -> None:
    """Reason, exit code, start and end of each trial that has ended, and how many failed for which reason."""
    params = dict(a_sweep().trials[0].params)
    bad = {"outcome": FAILED, "message": "command exited with <3>", "exit_code": 3, "began": 2.5}
    trials = [
        Own(0, params, outcome=SUCCEEDED, values=(1.0,), ended=2.0),
        Own(1, params, **bad, ended=4.0),
        Own(2, params, **bad),  # as an older release has told it
        Own(3, params, outcome=FAILED, message="the last value of loss is no finite number", began=5.0, ended=6.0),
        Own(4, params, began=6.0),
    ]
    results = Results("team-a/churn", SPACE, LOSS, trials)
    rows = parquet.read_table(io.BytesIO(table(results))).to_pylist()

    assert [(row["reason"], row["exitCode"], row["start"], row["end"]) for row in rows] == [
        (None, 0, 0.0, 2.0),
        ("command exited with <3>", 3, 2.5, 4.0),
        ("command exited with <3>", 3, 2.5, None),
        ("the last value of loss is no finite number", 0, 5.0, 6.0),
        (None, None, None, None),
    ]
    failed = report(results, {}).partition("<h2>Failed trials</h2>")[2]
    assert re.findall(r"<td[^>]*>([^<]*)</td>", failed) == [
        *("2", "command exited with &lt;3&gt;", "1"),
        *("1", "the last value of loss is no finite number", "3"),
    ]
    assert "Failed trials" not in report(Results("x", SPACE, LOSS, trials[:1]), {})


def test_more_reasons_than_anybody_reads_are_others() -> None:
    """Where each trial fails with words of its own, a few are told apart."""
    reasons = Reasons()
    for number in range(1000):
        reasons.add(number, f"file {number} not found\nand more")

    assert len(reasons.counted) == KINDS + 1
    assert reasons.counted[0] == ("file 0 not found", 1, 0)
    assert reasons.counted[-1] == (OTHERS, 1000 - KINDS, KINDS)
    assert str(reasons).startswith("1000 failed: 1 x file 0 not found, 1 x file 1 not found, ")
    assert str(reasons).endswith(f", {1000 - SHOWN} x other reasons")
    assert str(Reasons()) == ""


@settings(max_examples=10, deadline=None)
@given(search_spaces(), st.integers(0, 12), st.integers(1, 2), st.data())
def test_whatever_a_sweep_was_there_is_a_report(
    document: dict[str, Any], many: int, objectives: int, data: st.DataObject
) -> None:
    """No trial at all, failures only, values that are all the same or enormous: something can be said of each."""
    space = read_space(document)
    numbers = st.one_of(st.just(0.5), st.floats(-1e300, 1e300))
    trials = []
    for one in suggest(space, [], many, objectives=LOSS, algorithm="random"):
        outcome = data.draw(st.sampled_from(["", SUCCEEDED, SUCCEEDED, STOPPED, FAILED]))
        values = tuple(data.draw(numbers) for _ in range(objectives))
        points = ((1, data.draw(numbers)),) if data.draw(st.booleans()) else ()
        trials.append(Trial(one.number, one.params, outcome, values if outcome == SUCCEEDED else (), points))

    results = Results("any", space, (LOSS, TWO)[objectives - 1], trials)

    assert f"{len(trials)} trials" in files(results)["report.html"].decode()
    assert [json.loads(line) for line in study_file(results).splitlines()]
    assert parquet.read_table(io.BytesIO(table(results))).num_rows == len(trials)


def test_matplotlib_is_imported_for_pictures_only() -> None:
    """Results and a study come without it: a coordinator pays for pictures when there are some to draw."""
    path = [entry for entry in sys.path if entry]
    program = (
        f"import sys; sys.path[:0] = {path!r}\n"
        "import ultramarine_sweep.results, ultramarine_sweep.study, ultramarine_sweep.stopping\n"
        "print('matplotlib' in sys.modules, 'sklearn' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)

    assert done.stdout.split() == ["False", "False"]
