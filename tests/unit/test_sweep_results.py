"""What a sweep leaves for people: importances, pictures, a report, and a study that plain Optuna opens."""

from __future__ import annotations

import io
import json
import math
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any
from xml.etree import ElementTree

import optuna
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from optuna.storages.journal import JournalFileBackend, JournalStorage
from optuna.trial import TrialState
from pyarrow import parquet
from ultramarine_contract.searchspace import read_space
from ultramarine_sweep.report.pictures import captions, pictures, png, svg
from ultramarine_sweep.report.report import files, report
from ultramarine_sweep.report.results import Results
from ultramarine_sweep.report.study import as_study, study_lines
from ultramarine_sweep.report.table import table
from ultramarine_sweep.report.trialpictures import BEST_CURVES, CURVES, chosen_curves
from ultramarine_sweep.samplers.dominance import elite, front
from ultramarine_sweep.samplers.history import FAILED, STOPPED, SUCCEEDED, Trial
from ultramarine_sweep.samplers.suggest import suggest
from ultramarine_sweep.state.ends import KINDS, OTHERS, SHOWN, Reasons
from ultramarine_sweep.state.points import Points
from ultramarine_sweep.state.trial import Trial as Own
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


def test_the_largest_losses_leave_what_matters_as_it_is() -> None:
    """Losses up to the end of floats, whose differences no float could be, have the importances of small ones."""
    small = a_sweep(many=120)
    worst = max(trial.values[0] for trial in small.history.succeeded())
    large = [
        replace(one, values=tuple(sys.float_info.max * (2 * value / worst - 1) for value in one.values))
        for one in small.trials
    ]

    found = Results("x", SPACE, LOSS, large).importances

    assert found == pytest.approx(small.importances, abs=1e-3)  # which round differently


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
    (tmp_path / "journal.log").write_bytes(b"".join(study_lines(sweep)))

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
        (LOSS, ["history", "curves", "importances", "slices", "parallel"]),
        (TWO, ["history", "curves", "front", "importances", "slices", "parallel"]),
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


def told_of(values: list[float], space: Any = SPACE) -> Results:
    """A sweep whose trials all succeeded, with these values."""
    drawn = suggest(space, [], len(values), objectives=LOSS, algorithm="random")
    return Results("x", space, LOSS, [Trial(one.number, one.params, SUCCEEDED, (values[one.number],)) for one in drawn])


def marks(axes: Any) -> dict[float, float]:
    """Where dots and triangles stand that are to be seen."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    places = [(float(x), float(y)) for group in axes.collections for x, y in group.get_offsets()]
    return {x: y for x, y in places if left <= x <= right and bottom <= y <= top}


def test_a_good_sweep_is_shown_whole() -> None:
    """Three of twenty that lie a little apart from the others are dots like these, where they belong."""
    values = [0.95 + 0.001 * n for n in range(17)] + [0.915, 0.916, 0.918]
    results = told_of(values)

    assert marks(pictures(results)["history"].axes[0]) == pytest.approx(dict(enumerate(values)))
    assert captions(results) == {}


def test_what_is_far_off_is_a_triangle_in_a_band_of_its_own_and_counted() -> None:
    """One of fourteen that would press all others together stands above the axis; picture and report say so."""
    results = told_of([*(n / 10 for n in range(13)), 500.0])
    (axes,) = pictures(results)["history"].axes
    (band,) = (text.get_text() for text in axes.texts)

    assert marks(axes).keys() == set(range(14))
    assert {x: y for x, y in marks(axes).items() if x < 13} == pytest.approx({n: n / 10 for n in range(13)})
    assert max(axes.get_yticks()) < 1.26 < marks(axes)[13] < axes.get_ylim()[1] < 2, (
        "beyond the axis, and not at its edge"
    )
    assert band == "1 above\n1.26"
    assert report(results).count("1 above 1.26: far off, and drawn in the grey band, not to scale.") == 2


def test_positive_values_of_all_sizes_have_a_logarithmic_axis() -> None:
    """Losses from 0.001 to 1,000 are all where they belong, and the axis says what it is."""
    values = [10 ** (n / 4 - 3) for n in range(25)]
    (axes,) = pictures(told_of(values))["history"].axes

    assert (axes.get_yscale(), axes.get_ylabel()) == ("log", "loss (log scale)")
    assert marks(axes) == pytest.approx(dict(enumerate(values)))
    assert captions(told_of(values)) == {}


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=30))
@example([1e308, -1e308, 1.0])
@example([sys.float_info.max] * 3 + [-sys.float_info.max])
@example([1e308, 1.1e308, 1.7e308])
def test_every_succeeded_trial_is_in_every_picture(values: list[float]) -> None:
    """Whatever the values, no trial lies outside of a picture, and those that are not where they belong are counted."""
    results = told_of(
        values, read_space({"a": {"uniform": {"min": 0, "max": 1}}, "b": {"uniform": {"min": 0, "max": 1}}})
    )
    drawn = pictures(results)
    slices = [axes for axes in drawn["slices"].axes if axes.get_title()]

    assert set(marks(drawn["history"].axes[0])) == set(range(len(values)))
    assert [len(marks(axes)) for axes in slices] == [len(values)] * 2
    moved = sum(not math.isclose(y, values[int(x)]) for x, y in marks(drawn["history"].axes[0]).items())
    counts = re.findall(r"(\d+) (?:above|below)", captions(results).get("history", ""))
    assert sum(map(int, counts)) == moved
    assert all(svg(figure) for figure in drawn.values())


@pytest.mark.parametrize("many", [1, 4, 6, 30])
def test_trials_are_counted_in_whole_numbers(many: int) -> None:
    """There is no trial 2.5."""
    figure = pictures(told_of([1.0] * many))["history"]

    assert all(float(tick).is_integer() for tick in figure.axes[0].get_xticks())


def test_curves_end_where_trials_did_and_the_best_stands_out() -> None:
    """Each trial that told values on its way is a line; those that were stopped end in squares, at their last step."""
    sweep = a_sweep()
    (axes,) = pictures(sweep)["curves"].axes
    ends = {text.get_text() for text in axes.get_legend().get_texts()}
    (best,) = (line for line in axes.lines if len(line.get_xdata()) == 2 and line.get_linewidth() > 2)

    assert ends == {"ended early (6)", "succeeded (46)", f"best: trial {sweep.best[0].number}"}
    assert sum(len(group.get_segments()) for group in axes.collections if hasattr(group, "get_segments")) == 52
    points = next(trial.points for trial in sweep.trials if trial.number == sweep.best[0].number)
    assert list(best.get_ydata()) == pytest.approx([value for _, value in points])
    assert captions(sweep) == {}


@pytest.mark.slow
def test_of_many_curves_the_best_and_some_others_are_drawn() -> None:
    """A sweep of ten thousand trials has a picture of a few hundred lines, and the report says which."""
    params = {"a": 0.5}
    space = read_space({"a": {"uniform": {"min": 0, "max": 1}}})
    trials = [
        Trial(n, params, *((SUCCEEDED, (1.0 + n,)) if n % 3 else (STOPPED, ())), ((1, 2.0 + n), (2, 1.0 + n)))
        for n in range(10_000)
    ]
    results = Results("x", space, LOSS, trials)
    chosen = {trial.number for trial in chosen_curves(results)}

    assert len(chosen) == CURVES
    assert {trial.number for trial in results.best[:BEST_CURVES]} <= chosen
    assert max(chosen) > 9900
    assert "The best 50 of 10000 trials and others spread evenly over the sweep." in report(results)


def test_trials_that_told_nothing_on_their_way_have_no_curves() -> None:
    """With one value each there is nothing to join by a line."""
    assert "curves" not in pictures(told_of([1.0, 2.0, 3.0]))


def test_when_trials_ran_and_for_how_long() -> None:
    """A bar for each trial that has ended, from its beginning to its end; page and table say how long they took."""
    params = dict(a_sweep().trials[0].params)
    ended = [(SUCCEEDED, 0.0, 90.0, 90.0), (STOPPED, 0.0, 4.0, 4.0), (FAILED, 4.0, 10.0, 6.0)]
    trials = [
        Own(
            number,
            params,
            outcome=outcome,
            values=(1.0,) * (outcome == SUCCEEDED),
            began=began,
            ended=end,
            seconds=took,
        )
        for number, (outcome, began, end, took) in enumerate(ended)
    ]
    trials[1].points = Points([(1, 3.0)])
    results = Results("x", SPACE, LOSS, [*trials, Own(3, params, began=10.0)])
    (axes,) = pictures(results)["timeline"].axes
    bars = [group.get_segments()[0].tolist() for group in axes.collections if hasattr(group, "get_segments")]
    page = report(results)

    assert bars == [[[0.0, 0], [90.0, 0]], [[0.0, 1], [4.0, 1]], [[4.0, 2], [10.0, 2]]]
    assert "<b>90 s</b>in all; 100 s of trials, 90% succeeded, 4% stopped early, 6% failed" in page
    assert "<b>1</b>stopped early, 33% of those that ended" in page
    assert re.findall(r"<td[^>]*>([^<]*)</td>", page.partition("<h2>Stopped early</h2>")[2])[:2] == ["1", "1"]
    assert "<th>duration</th>" in page


def test_the_search_space_is_a_table() -> None:
    """Each parameter with its values, its condition, and what the best trial has of it."""
    results = a_sweep()
    table = report(results, {}).partition("<h2>Search space</h2>")[2].partition("</section>")[0]
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row)[:3] for row in table.split("<tr")[2:]]

    assert rows == [
        ["fixed", "true (constant)", ""],
        ["idle", "1 to 9", ""],
        ["kind", "plain, &lt;b&gt;bold&lt;/b&gt; $x_, other", ""],
        ["only", "0 to 1, in steps of 0.1", "kind is plain"],
        ["strong", "0 to 1", ""],
        ["weak", "0.0001 to 1, log scale", ""],
    ]


def test_lines_meet_where_the_values_are_written() -> None:
    """Whatever the kind of a parameter, its first value is at the lower end and its last one at the upper end."""
    document = {
        "power": {"logInt": {"min": 1, "max": 3}},
        "step": {"uniform": {"min": 0, "max": 1, "step": 0.4}},
        "three": {"choice": ["a", "b", "c"]},
        "two": {"choice": ["no", "yes"]},
        "whole": {"int": {"min": 1, "max": 3}},
    }
    rows: list[tuple[Any, ...]] = [(1, 0.0, "a", "no", 1), (3, 0.8, "c", "yes", 3), (2, 0.4, "b", "yes", 2)]
    trials = [
        Trial(number, dict(zip(document, row, strict=True)), SUCCEEDED, (float(number),))
        for number, row in enumerate(rows)
    ]
    (axes,) = pictures(Results("x", read_space(document), LOSS, trials))["parallel"].axes
    *_, last, first = (line.vertices for line in axes.collections[0].get_paths())  # the best one on top
    written: dict[int, list[tuple[float, str]]] = {}
    for text in axes.texts:
        x, y = text.get_position()
        written.setdefault(round(x), []).append((round(y), text.get_text()))

    assert [[float(y) for _, y in line] for line in (first, last)] == [[0.0] * 5, [1.0] * 5]
    assert [sorted(one) for one in written.values()] == [
        [(0, "1"), (1, "3")],
        [(0, "0"), (1, "0.8")],
        [(0, "a"), (0, "b"), (1, "c")],  # b at 0.5, which is rounded to 0
        [(0, "no"), (1, "yes")],
        [(0, "1"), (1, "3")],
    ]
    assert [text.get_position()[1] for text in axes.texts if text.get_text() == "b"] == [0.5]


def test_a_front_beyond_what_can_be_drawn_is_counted() -> None:
    """Trials up to the end of floats are drawn as far as can be, and picture and report say how many."""
    values = [(1e308, 1.0), (2.0, 2.0), (3.0, -1e308)]
    trials = [Trial(one.number, one.params, SUCCEEDED, values[one.number]) for one in a_sweep().trials[:3]]
    results = Results("x", SPACE, TWO, trials)
    (axes,) = pictures(results)["front"].axes

    assert marks(axes) == pytest.approx({1.12e300: 1.0, 2.0: 2.0, 3.0: -1.12e300})
    assert "loss: 1 above 1e+300: far off" in report(results)
    assert "accuracy: 1 below -1e+300: far off" in report(results)


def test_what_the_parallel_picture_leaves_out_is_counted() -> None:
    """Of more than a thousand trials it shows the best."""
    assert captions(told_of([float(n) for n in range(1001)])) == {
        "parallel": "The best 1000 of 1001 trials that succeeded"
    }


def test_a_report_is_one_file_that_asks_nothing_of_anybody() -> None:
    """The best trials are in a table, pictures are inside, and there is no script, no link and no foreign mark-up."""
    text = report(a_sweep(name="<script>alert(1)</script>"))
    best = a_sweep().best[0]

    assert "60 trials: 47 succeeded, 6 stopped early, 6 failed, 1 running. loss minimised." in text
    assert f"<td>{best.number}</td><td>{best.values[0]:.6g}</td>" in text
    assert text.count("data:image/svg+xml;base64,") == 5
    assert "<script" not in text
    assert "<b>bold" not in text
    assert "http" not in re.sub(r"base64,[^\"]*", "", text)


def test_all_that_is_drawn_of_a_sweep() -> None:
    """A report, and each picture twice."""
    names = set(files(a_sweep()))

    assert names == {"report.html"} | {
        f"pictures/{name}.{kind}"
        for name in ("history", "curves", "importances", "slices", "parallel")
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


def test_integers_beside_floats_are_one_column() -> None:
    """A choice that has both is a column of floats, also where an integer is none."""
    space = read_space({"c": {"choice": [1.5, 2, 2**53 + 1]}})
    trials = [Trial(n, {"c": value}, SUCCEEDED, (1.0,)) for n, value in enumerate([2, 1.5, 2**53 + 1])]

    rows = parquet.read_table(io.BytesIO(table(Results("x", space, LOSS, trials)))).to_pylist()

    assert [row["params.c"] for row in rows] == [2.0, 1.5, float(2**53)]


def test_why_trials_failed_is_in_the_table_and_the_report() -> None:
    """Reason, exit code, start and end of each trial that has ended, and how many failed for which reason."""
    params = dict(a_sweep().trials[0].params)
    bad = {"outcome": FAILED, "message": "command exited with <3>", "exit_code": 3, "began": 2.5}
    trials = [
        Own(0, params, outcome=SUCCEEDED, values=(1.0,), ended=2.0),
        Own(1, params, **bad, ended=4.0),
        Own(2, params, **bad),  # as an older release has told it
        Own(3, params, outcome=FAILED, message="the last value of loss is not a finite number", began=5.0, ended=6.0),
        Own(4, params, began=6.0),
    ]
    results = Results("team-a/churn", SPACE, LOSS, trials)
    rows = parquet.read_table(io.BytesIO(table(results))).to_pylist()

    assert [(row["reason"], row["exitCode"], row["start"], row["end"]) for row in rows] == [
        (None, 0, 0.0, 2.0),
        ("command exited with <3>", 3, 2.5, 4.0),
        ("command exited with <3>", 3, 2.5, None),
        ("the last value of loss is not a finite number", 0, 5.0, 6.0),
        (None, None, None, None),
    ]
    failed = report(results, {}).partition("<h2>Failed trials</h2>")[2].partition("</section>")[0]
    assert re.findall(r"<td[^>]*>([^<]*)</td>", failed) == [
        *("2", "command exited with &lt;3&gt;", "1"),
        *("1", "the last value of loss is not a finite number", "3"),
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
    numbers = st.one_of(st.just(0.5), st.floats(allow_nan=False, allow_infinity=False))
    trials = []
    for one in suggest(space, [], many, objectives=LOSS, algorithm="random"):
        outcome = data.draw(st.sampled_from(["", SUCCEEDED, SUCCEEDED, STOPPED, FAILED]))
        values = tuple(data.draw(numbers) for _ in range(objectives))
        points = ((1, data.draw(numbers)),) if data.draw(st.booleans()) else ()
        trials.append(Trial(one.number, one.params, outcome, values if outcome == SUCCEEDED else (), points))

    results = Results("any", space, (LOSS, TWO)[objectives - 1], trials)

    assert f"{len(trials)} trials" in files(results)["report.html"].decode()
    assert [json.loads(line) for line in b"".join(study_lines(results)).splitlines()]
    assert parquet.read_table(io.BytesIO(table(results))).num_rows == len(trials)


def test_matplotlib_is_imported_for_pictures_only() -> None:
    """Results and a study come without it: a coordinator pays for pictures when there are some to draw."""
    path = [entry for entry in sys.path if entry]
    program = (
        f"import sys; sys.path[:0] = {path!r}\n"
        "import ultramarine_sweep.report.results, ultramarine_sweep.report.study, ultramarine_sweep.samplers.stopping\n"
        "print('matplotlib' in sys.modules, 'sklearn' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)

    assert done.stdout.split() == ["False", "False"]
