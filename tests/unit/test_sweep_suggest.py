"""What a sweep tries next: every algorithm keeps to the space, gives the same again, and the clever ones are better."""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
from random import Random
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ultramarine_contract.parameters import fill
from ultramarine_contract.searchgrid import ALGORITHMS, SINGLE_OBJECTIVE, Grid
from ultramarine_contract.searchspace import read_space
from ultramarine_sweep.samplers.history import FAILED, STOPPED, SUCCEEDED, History, Trial, adopt
from ultramarine_sweep.samplers.suggest import Suggester, suggest
from unit.sweep_spaces import search_spaces

LOSS = [{"metric": "loss", "goal": "minimize"}]
TWO = [{"metric": "loss", "goal": "minimize"}, {"metric": "accuracy", "goal": "maximize"}]
LONG = {"gp": 20}  # trials; of the others enough that all of them have begun to learn
GP = pytest.param("gp", marks=pytest.mark.slow)  # it takes seconds
ENDLESS = [GP if name == "gp" else name for name in ALGORITHMS if name != "grid"]
LEARNING = ["tpe", GP, "cmaes", "nsga2"]

TREE = read_space(
    {
        "lr": {"logUniform": {"min": 1e-6, "max": 1}},
        "depth": {"int": {"min": 1, "max": 20}},
        "booster": {"choice": ["gblinear", "gbtree", "dart"]},
        "rate": {"uniform": {"min": 0, "max": 1, "step": 0.05}, "when": {"booster": ["dart"]}},
        "trees": {"logInt": {"min": 10, "max": 5000}, "when": {"booster": ["dart", "gbtree"]}},
        "silent": {"constant": True},
    }
)
SMALL = read_space({"a": {"int": {"min": 1, "max": 30}}, "b": {"choice": list("xyz")}})
BOWL = read_space({name: {"uniform": {"min": -5, "max": 5}} for name in ("x", "y", "z")})


def tree_loss(params: dict[str, Any]) -> float:
    """The best is a dart booster with lr 0.001, depth 6 and rate 0.2."""
    booster = {"dart": 0.0, "gbtree": 0.5, "gblinear": 1.0}[params["booster"]]
    rate = abs(params["rate"] - 0.2) * 3 if "rate" in params else 0.3
    return (math.log10(params["lr"]) + 3) ** 2 + ((params["depth"] - 6) / 3) ** 2 + booster + rate


def bowl_loss(params: dict[str, Any]) -> float:
    return (params["x"] - 2) ** 2 + (params["y"] + 1) ** 2 + 3 * (params["z"] - 1) ** 2


def finished(number: int, params: dict[str, Any], chance: Random, objectives: int) -> Trial:
    """A trial that ended in one way or another."""
    outcome = chance.choice([SUCCEEDED, SUCCEEDED, SUCCEEDED, FAILED] + [STOPPED] * (objectives == 1))
    values = tuple(chance.choice([-1.0, 0.0, 1e6, chance.random()]) for _ in range(objectives))
    points = tuple((step, chance.random()) for step in range(chance.randrange(4)))
    return Trial(number, params, outcome, values if outcome == SUCCEEDED else (), points)


def lived(space: Any, algorithm: str, seed: int, trials: int, objectives: int = 1, parallel: int = 3) -> list[Trial]:
    """All trials of a sweep in which several run at a time and end in any order, some of them badly."""
    chance = Random(seed)
    suggester = Suggester(space, (LOSS, TWO)[objectives - 1], {"type": algorithm, "seed": seed})
    running: list[Trial] = []
    done: list[Trial] = []
    for number in range(trials):
        params = suggester.ask(number)
        if params is None:
            break
        running.append(Trial(number, params))
        while len(running) >= parallel:
            ended = running.pop(chance.randrange(len(running)))
            done.append(finished(ended.number, dict(ended.params), chance, objectives))
            suggester.tell(done[-1])
    return done + running


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@settings(max_examples=15, deadline=None)
@given(document=search_spaces(finite=True), seed=st.integers(0, 1000))
def test_every_suggestion_lies_in_the_space(algorithm: str, document: dict[str, Any], seed: int) -> None:
    """Whatever the space, its conditions and what became of earlier trials: values are among those asked for."""
    space = read_space(document)

    for trial in lived(space, algorithm, seed, LONG.get(algorithm, 70)):
        assert space.refusal(trial.params) == ""


@pytest.mark.parametrize("algorithm", ENDLESS)
@settings(max_examples=15, deadline=None)
@given(document=search_spaces(), seed=st.integers(0, 1000))
def test_every_suggestion_lies_in_a_space_without_end(algorithm: str, document: dict[str, Any], seed: int) -> None:
    """The same of floats and of wide ranges, at their ends too; and the types are those of the values."""
    space = read_space(document)
    types = {parameter.name: parameter.domain for parameter in space.parameters}

    for trial in lived(space, algorithm, seed, LONG.get(algorithm, 70)):
        assert space.refusal(trial.params) == ""
        for name, value in trial.params.items():
            size = types[name].size
            assert type(value) is type(types[name].value(0)), name
            assert size is None or types[name].value(types[name].index(value) or 0) == value


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_trial_that_goes_on_after_a_pause_counts_once(algorithm: str) -> None:
    """One that was told as stopped is replaced by what becomes of it, also where something was learned in between."""
    space = TREE if algorithm != "grid" else SMALL
    trials = [trial for trial in lived(space, algorithm, 5, LONG.get(algorithm, 70)) if trial.outcome]
    suggester = Suggester(space, LOSS, {"type": algorithm, "seed": 5})
    for trial in trials:
        suggester.tell(Trial(trial.number, trial.params, STOPPED, points=((1, 7.0),)))
    between = Trial(1000, suggester.ask(1000) or trials[0].params, FAILED)
    for trial in (*trials, between):
        suggester.tell(trial)

    assert suggester.ask(1001) == Suggester(space, LOSS, {"type": algorithm, "seed": 5}, [*trials, between]).ask(1001)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_suggestion_depends_on_seed_number_and_trials_only(algorithm: str) -> None:
    """A coordinator that is started anew suggests the same, in whichever order it hears of the trials."""
    space = TREE if algorithm != "grid" else SMALL
    trials = lived(space, algorithm, 5, LONG.get(algorithm, 70))
    ways = [trials, trials[::-1], Random(1).sample(trials, len(trials))]

    answers = []
    for way in ways:
        suggester = Suggester(space, LOSS, {"type": algorithm, "seed": 5}, way)
        answers.append([suggester.ask(number) for number in range(len(trials), len(trials) + 3)])

    assert answers[0] == answers[1] == answers[2]
    assert answers[0] == [one.params for one in suggest(space, trials, 3, objectives=LOSS, algorithm=algorithm, seed=5)]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_one_who_heard_it_all_and_one_who_reads_it_later_agree(algorithm: str) -> None:
    """What was suggested as trials came and went is what a new coordinator makes of the same trials."""
    space = TREE if algorithm != "grid" else SMALL
    chance = Random(3)
    suggester = Suggester(space, LOSS, {"type": algorithm, "seed": 9})
    trials: dict[int, Trial] = {}
    for number in range(LONG.get(algorithm, 70)):
        anew = Suggester(space, LOSS, {"type": algorithm, "seed": 9}, trials.values())
        params = suggester.ask(number)

        assert params == anew.ask(number)

        trials[number] = Trial(number, params or {})
        running = [one for one in trials.values() if not one.outcome]
        if len(running) > 3:
            ended = chance.choice(running)
            trials[ended.number] = finished(ended.number, dict(ended.params), chance, 1)
            suggester.tell(trials[ended.number])


@pytest.mark.parametrize("algorithm", ENDLESS)
def test_asking_twice_gives_the_same(algorithm: str) -> None:
    """Whoever asks again for the same trial, because the answer was lost, gets the same answer."""
    suggester = Suggester(TREE, LOSS, {"type": algorithm}, lived(TREE, algorithm, 5, LONG.get(algorithm, 70)))

    assert suggester.ask(70) == suggester.ask(70)


@pytest.mark.parametrize("algorithm", ENDLESS)
def test_initial_trials_come_first(algorithm: str) -> None:
    """They have the space's own types; the algorithm goes on with the next number."""
    first = [
        {"lr": 1, "depth": 6.0, "booster": "gblinear", "silent": True},
        {"lr": 0.001, "depth": 6, "booster": "dart", "rate": 0.2, "trees": 100, "silent": True},
    ]
    suggester = Suggester(TREE, LOSS, {"type": algorithm, "initialTrials": first})
    answers = [suggester.ask(number) for number in range(3)]
    assert answers[:2] == first
    assert answers[0] is not None
    assert (type(answers[0]["lr"]), type(answers[0]["depth"])) == (float, int)
    assert answers[2] is not None
    assert TREE.refusal(answers[2]) == ""
    plain = Suggester(TREE, LOSS, {"type": algorithm}, [Trial(n, params) for n, params in enumerate(first)])
    assert plain.ask(2) == answers[2]


@pytest.mark.parametrize("algorithm", ENDLESS)
def test_another_seed_gives_other_trials(algorithm: str) -> None:
    """The seed matters, and so does the number: trials that run at once are not the same."""
    trials = lived(TREE, algorithm, 5, LONG.get(algorithm, 70))
    answers = [
        one.params
        for seed in (5, 6)
        for one in suggest(TREE, trials, 4, objectives=LOSS, algorithm=algorithm, seed=seed)
    ]

    assert len({json.dumps(answer, sort_keys=True) for answer in answers}) == 8


@pytest.mark.slow
def test_the_same_comes_out_in_another_process() -> None:
    """No order of a set, no hash of a process and no clock gets into a suggestion."""
    program = (
        "from unit.test_sweep_suggest import *\n"
        "for name in ['tpe', 'gp', 'cmaes', 'nsga2', 'sobol']:\n"
        "    trials = lived(TREE, name, 5, LONG.get(name, 70))\n"
        "    print([one.params for one in suggest(TREE, trials, 2, objectives=LOSS, algorithm=name, seed=5)])\n"
    )
    path = [entry for entry in sys.path if entry]
    answers = {
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", f"import sys; sys.path[:0] = {path!r}\n{program}"],
            env={"PYTHONHASHSEED": hashed, "PATH": ""},
            capture_output=True,
            check=True,
        ).stdout
        for hashed in ("1", "2")
    }

    assert len(answers) == 1
    assert len(answers.pop().splitlines()) == 5


@given(search_spaces(finite=True), st.integers(0, 100))
def test_a_grid_is_given_once_and_ends(document: dict[str, Any], seed: int) -> None:
    """A grid's trials are its points, each once, in an order that the seed decides; then there is nothing more."""
    space = read_space(document)
    size = Grid(space).size
    if size <= 200:
        trials = suggest(space, [], size + 5, objectives=LOSS, algorithm="grid", seed=seed)

        assert len(trials) == size
        assert len({json.dumps(trial.params, sort_keys=True) for trial in trials}) == size


def test_sobol_fills_the_space_evenly() -> None:
    """Of 64 points every eighth of each axis has eight."""
    space = read_space({name: {"uniform": {"min": 0, "max": 8}} for name in ("x", "y", "z")})
    trials = suggest(space, [], 64, objectives=LOSS, algorithm="sobol", seed=4)

    for name in space.names:
        parts = [int(float(trial.params[name])) for trial in trials]
        assert [parts.count(part) for part in range(8)] == [8] * 8


def test_random_values_have_equal_shares() -> None:
    """Each value of a choice, a step and an integer is as likely as another, those at the ends too."""
    space = read_space(
        {
            "c": {"choice": ["a", "b", "c", "d"]},
            "i": {"int": {"min": 1, "max": 4}},
            "u": {"uniform": {"min": 0, "max": 0.75, "step": 0.25}},
        }
    )
    trials = suggest(space, [], 4000, objectives=LOSS, algorithm="random")

    for name in space.names:
        values = [trial.params[name] for trial in trials]
        assert len(set(values)) == 4
        assert all(900 < values.count(value) < 1100 for value in set(values))


def best_of(space: Any, loss: Any, algorithm: str, seed: int, trials: int, parallel: int = 4) -> float:
    """The smallest loss that a sweep finds."""
    suggester = Suggester(space, LOSS, {"type": algorithm, "seed": seed})
    running: list[tuple[int, Any]] = []
    best = math.inf
    for number in range(trials):
        running.append((number, suggester.ask(number)))
        if len(running) == parallel:
            ended, params = running.pop(0)
            best = min(best, value := loss(params))
            suggester.tell(Trial(ended, params, SUCCEEDED, (value,)))
    return best


@pytest.mark.parametrize(
    ("algorithm", "loss", "space", "ratio"),
    [
        ("tpe", bowl_loss, BOWL, 0.3),
        ("cmaes", bowl_loss, BOWL, 0.3),
        pytest.param("gp", bowl_loss, BOWL, 0.02, marks=pytest.mark.slow),
        ("nsga2", bowl_loss, BOWL, 0.8),
        ("tpe", tree_loss, TREE, 0.8),
        pytest.param("gp", tree_loss, TREE, 0.8, marks=pytest.mark.slow),
    ],
)
def test_what_learns_is_better_than_chance(algorithm: str, loss: Any, space: Any, ratio: float) -> None:
    """In as many trials, four at a time, each algorithm that learns comes nearer to the minimum than random search."""
    seeds, trials = (range(3), 40) if algorithm == "gp" else (range(7), 80)
    found = statistics.median(best_of(space, loss, algorithm, seed, trials) for seed in seeds)
    by_chance = statistics.median(best_of(space, loss, "random", seed, trials) for seed in range(7))

    assert found < ratio * by_chance


@pytest.mark.slow
def test_tpe_is_as_good_as_plain_optuna() -> None:
    """The same trials, one at a time: what is added around Optuna's estimator costs nothing of what it finds."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def plain(seed: int) -> float:
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
        study.optimize(
            lambda trial: bowl_loss({name: trial.suggest_float(name, -5, 5) for name in ("x", "y", "z")}), n_trials=80
        )
        return study.best_value

    ours = statistics.median(best_of(BOWL, bowl_loss, "tpe", seed, 80, parallel=1) for seed in range(9))
    theirs = statistics.median(plain(seed) for seed in range(9))

    assert ours < 1.5 * theirs


def hypervolume(points: list[tuple[float, float]]) -> float:
    """The area between a front of two losses and (10, 10)."""
    area, height = 0.0, 10.0
    for x, y in sorted(points):
        if x < 10 and y < height:
            area += (10 - x) * (height - y)
            height = y
    return area


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["nsga2", "tpe"])
def test_several_objectives_spread_a_better_front_than_chance(algorithm: str) -> None:
    """Of 250 trials the front of an algorithm that learns lies below that of random search."""
    space = read_space({f"x{n}": {"uniform": {"min": -2, "max": 4}} for n in range(5)})

    def area(name: str, seed: int) -> float:
        suggester = Suggester(space, TWO, {"type": name, "seed": seed})
        points = []
        for number in range(250):
            params = suggester.ask(number)
            assert params is not None
            near, far = (sum((float(value) - goal) ** 2 for value in params.values()) / 5 for goal in (0, 2))
            points.append((near, far))
            suggester.tell(Trial(number, params, SUCCEEDED, (near, -far)))
        return hypervolume(points)

    assert min(area(algorithm, seed) for seed in range(3)) > max(area("random", seed) for seed in range(3))


def test_a_child_is_no_copy_of_its_parents() -> None:
    """nsga2 does not try again what it has learned from: of 150 trials in a wide space no two are the same."""
    trials = [json.dumps(trial.params, sort_keys=True) for trial in lived(BOWL, "nsga2", 4, 150, objectives=2)]

    assert len(set(trials)) == 150


@pytest.mark.parametrize("algorithm", LEARNING)
def test_the_goal_says_which_way_is_better(algorithm: str) -> None:
    """Maximising a metric is minimising its negative, trial by trial."""
    answers = []
    for sign, goal in ((1, "minimize"), (-1, "maximize")):
        trials = [
            Trial(number, suggestion.params, SUCCEEDED, (sign * tree_loss(suggestion.params),))
            for number, suggestion in enumerate(suggest(TREE, [], 40, objectives=LOSS, algorithm="random"))
        ]
        objectives = [{"metric": "m", "goal": goal}]
        answers.append(suggest(TREE, trials, 3, objectives=objectives, algorithm=algorithm))

    assert answers[0] == answers[1]


@pytest.mark.parametrize("algorithm", ["tpe", GP, "cmaes"])
def test_a_region_that_fails_is_left(algorithm: str) -> None:
    """Where trials fail, fewer are tried, although the best ones lie at the edge of it."""
    space = read_space({"x": {"uniform": {"min": 0, "max": 1}}, "y": {"uniform": {"min": 0, "max": 1}}})
    suggester = Suggester(space, LOSS, {"type": algorithm})
    failures = []
    for number in range(80):
        params = suggester.ask(number)
        assert params is not None
        x = float(params["x"])
        failures.append(x > 0.5)
        suggester.tell(
            Trial(number, params, FAILED) if x > 0.5 else Trial(number, params, SUCCEEDED, ((x - 0.45) ** 2,))
        )

    assert sum(failures[-40:]) < 14


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_sweep_in_which_all_fail_goes_on(algorithm: str) -> None:
    """Failed trials alone, and stopped ones without a value, leave every algorithm with something to try."""
    space = read_space({"x": {"int": {"min": 0, "max": 99}}})
    suggester = Suggester(space, LOSS, {"type": algorithm})
    for number in range(60):
        params = suggester.ask(number)
        assert params is not None
        suggester.tell(Trial(number, params, FAILED if number % 3 else STOPPED))


@pytest.mark.parametrize("algorithm", ["tpe", GP, "cmaes"])
def test_stopped_trials_are_learned_from(algorithm: str) -> None:
    """A sweep in which all but the best third are stopped, at their second step, still finds where losses are small."""
    space = read_space({"x": {"uniform": {"min": 0, "max": 1}}})
    suggester = Suggester(space, LOSS, {"type": algorithm})
    losses: list[float] = []
    for number in range(60):
        params = suggester.ask(number)
        assert params is not None
        losses.append((float(params["x"]) - 0.8) ** 2)
        best = sorted(losses)[len(losses) // 3]
        suggester.tell(
            Trial(number, params, SUCCEEDED, (losses[-1],))
            if losses[-1] <= best
            else Trial(number, params, STOPPED, (), ((2, losses[-1] + 1),))
        )

    assert statistics.median(losses[-20:]) < 0.4 * statistics.median(losses[:20])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_choice_gives_the_command_what_was_written(algorithm: str) -> None:
    """Of integers beside floats an integer stays one: 2 does not come as 2.0."""
    space = read_space({"c": {"choice": [1.5, 2, 0.25, 3]}, "n": {"int": {"min": 1, "max": 9}}})

    given = {fill(["$(params.c)"], trial.params)[0] for trial in lived(space, algorithm, 1, LONG.get(algorithm, 36))}

    assert given <= {"1.5", "2", "0.25", "3"}
    assert {"2", "3"} & given


@pytest.mark.parametrize("algorithm", ENDLESS)
@pytest.mark.parametrize(
    "how",
    [
        {"uniform": {"min": -1e300, "max": 1e300}},
        {"uniform": {"min": 9e299, "max": 1e300, "step": 1e298}},
        {"uniform": {"min": 0, "max": 1e-300}},
        {"logUniform": {"min": 1e-300, "max": 1e300}},
        {"int": {"min": -(2**53), "max": 2**53}},
        {"logInt": {"min": 1, "max": 2**53}},
    ],
    ids=json.dumps,
)
def test_the_widest_and_the_narrowest_range_can_be_searched(algorithm: str, how: dict[str, Any]) -> None:
    """What is just not refused gives numbers of the range, also once an algorithm has begun to learn."""
    space = read_space({"x": how})
    suggester = Suggester(space, LOSS, {"type": algorithm})

    for number in range(LONG.get(algorithm, 40)):
        params = suggester.ask(number)
        assert params is not None
        assert space.refusal(params) == ""
        suggester.tell(Trial(number, params, SUCCEEDED, (float(number * 7 % 5),)))


@pytest.mark.parametrize("algorithm", LEARNING)
def test_values_beyond_all_others_do_no_harm(algorithm: str) -> None:
    """Losses of 1e300, or all the same, are numbers like others."""
    for values in ([1e300, -1e300, 1.0], [7.0, 7.0, 7.0], [5e-324, 0.0, -0.0]):
        trials = [
            Trial(one.number, one.params, SUCCEEDED, (values[one.number % 3],))
            for one in suggest(TREE, [], 40, objectives=LOSS, algorithm="random")
        ]
        assert len(suggest(TREE, trials, 3, objectives=LOSS, algorithm=algorithm)) == 3


MOST = sys.float_info.max
FAR = {
    "both ways": [1e308, -1e308, 1.0],
    "as far as floats go": [MOST, MOST, MOST, -MOST],
    "one": [MOST, *map(float, range(13))],
    "one that is good": [-MOST, *map(float, range(13))],
    "all": [1e308, 1.1e308, 1.7e308],
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("values", FAR.values(), ids=FAR)
@pytest.mark.parametrize(
    ("algorithm", "objectives"),
    [
        ("tpe", LOSS),
        pytest.param("gp", LOSS, marks=pytest.mark.slow),
        ("cmaes", LOSS),
        ("nsga2", LOSS),
        ("tpe", TWO),
        ("nsga2", TWO),
    ],
)
def test_the_largest_floats_are_values_like_others(
    algorithm: str, objectives: list[dict[str, Any]], values: list[float]
) -> None:
    """Differences that are beyond floats stop no algorithm: of other sweeps' trials, of stopped ones, of two goals."""
    earlier = [
        Trial(one.number, one.params, SUCCEEDED, tuple(values[one.number % len(values)] for _ in objectives))
        for one in suggest(TREE, [], 12, objectives=LOSS, algorithm="random", seed=1)
    ]
    known, _ = adopt(TREE, earlier, objectives)
    suggester = Suggester(TREE, objectives, {"type": algorithm}, (), known)

    for number in range(LONG.get(algorithm, 45)):
        params = suggester.ask(number)
        assert params is not None
        assert TREE.refusal(params) == ""
        first, second = values[number % len(values)], values[number // 2 % len(values)]
        if len(objectives) == 1 and number % 3 == 1:
            suggester.tell(Trial(number, params, STOPPED, (), ((1, first),)))
        else:
            suggester.tell(Trial(number, params, SUCCEEDED, (first, second)[: len(objectives)]))


def test_gp_learns_as_well_from_large_losses() -> None:
    """What it suggests depends on how losses lie to each other: 2**1020 times as large they give the same."""
    answers = []
    for larger in (1.0, 2.0**1020):
        trials = [
            Trial(one.number, one.params, SUCCEEDED, (larger * (bowl_loss(one.params) / 32),))
            for one in suggest(BOWL, [], 12, objectives=LOSS, algorithm="random")
        ]
        answers.append(suggest(BOWL, trials, 2, objectives=LOSS, algorithm="gp"))

    assert answers[0] == answers[1]


@pytest.mark.parametrize("algorithm", LEARNING)
def test_values_that_are_no_numbers_count_as_failures(algorithm: str) -> None:
    """A trial that came to NaN or infinity has failed, and one that was stopped at such a value has the one before."""
    nan, inf = float("nan"), float("inf")
    drawn = suggest(TREE, [], 40, objectives=LOSS, algorithm="random")
    strange = [
        Trial(one.number, one.params, SUCCEEDED, ((1.0, nan, inf, -inf)[one.number % 4],))
        if one.number % 5
        else Trial(one.number, one.params, STOPPED, (), ((1, 2.0), (2, nan)))
        for one in drawn
    ]
    plain = [
        Trial(one.number, one.params, *((SUCCEEDED, (1.0,)) if one.number % 4 == 0 else (FAILED,)))
        if one.number % 5
        else Trial(one.number, one.params, STOPPED, (), ((1, 2.0),))
        for one in drawn
    ]
    answers = [suggest(TREE, trials, 3, objectives=LOSS, algorithm=algorithm) for trials in (strange, plain)]

    assert answers[0] == answers[1]


def test_trials_of_another_sweep_are_taken_where_they_fit() -> None:
    """A trial that this space could have made counts as known; of the others it is said why not."""
    good = {"lr": 0.01, "depth": 3, "booster": "dart", "rate": 0.2, "trees": 100, "silent": True}
    trials = [
        Trial(0, good, SUCCEEDED, (1.0,)),
        Trial(1, good | {"lr": 2.0}, SUCCEEDED, (1.0,)),
        Trial(2, good | {"momentum": 1}, SUCCEEDED, (1.0,)),
        Trial(3, {name: value for name, value in good.items() if name != "rate"}, SUCCEEDED, (1.0,)),
        Trial(4, good, SUCCEEDED, (1.0, 2.0)),
        Trial(5, good, FAILED),
        Trial(6, good | {"depth": 4}, SUCCEEDED, (2.0,)),
    ]

    known, reasons = adopt(TREE, trials, LOSS)

    assert [(one.number, one.params["depth"]) for one in known] == [(-2, 3), (-1, 4)]
    assert reasons == [
        "trial 1 is left out: lr cannot be 2.0",
        "trial 2 is left out: it has momentum, which is not a parameter",
        "trial 3 is left out: it has no rate",
        "trial 4 is left out: it has 2 objectives, and this sweep 1",
    ]


@pytest.mark.parametrize("algorithm", ["tpe", GP, "cmaes"])
def test_what_is_known_of_another_sweep_helps_from_the_first_trial(algorithm: str) -> None:
    """The first trials of a sweep that knows another one are better than those of one that does not."""
    earlier = [
        Trial(one.number, one.params, SUCCEEDED, (bowl_loss(one.params),))
        for one in suggest(BOWL, [], 60, objectives=LOSS, algorithm="random", seed=1)
    ]
    known, _ = adopt(BOWL, earlier, LOSS)

    warm = suggest(BOWL, [], 8, objectives=LOSS, algorithm=algorithm, seed=2, adopted=known)
    cold = suggest(BOWL, [], 8, objectives=LOSS, algorithm=algorithm, seed=2)

    assert [one.number for one in warm] == list(range(8))
    assert statistics.median(bowl_loss(one.params) for one in warm) < statistics.median(
        bowl_loss(one.params) for one in cold
    )


@given(st.lists(st.tuples(st.integers(0, 12), st.sampled_from(["", SUCCEEDED, STOPPED, FAILED]), st.integers(0, 3))))
def test_history_is_the_same_however_it_was_told(events: list[tuple[int, str, int]]) -> None:
    """Trials told again replace what was known; afterwards nothing is left of it."""
    history = History()
    last: dict[int, Trial] = {}
    for number, outcome, value in events:
        last[number] = Trial(number, {}, outcome, (float(value),), ((value, 1.0),) if value else ())
        history.tell(last[number])
    anew = History()
    for number in sorted(last):
        anew.tell(last[number])

    assert history.finished() == anew.finished()
    assert history.succeeded() == anew.succeeded()
    assert history.selection(2, 3) == anew.selection(2, 3)
    assert history.running == anew.running
    assert history.informative == anew.informative


@pytest.mark.parametrize("algorithm", [name for name in ENDLESS if name is not GP])
def test_ten_thousand_trials_are_no_burden(algorithm: str) -> None:
    """After 10,000 finished trials the next suggestion looks at a bounded number of them, or at each of them once."""
    several = algorithm not in SINGLE_OBJECTIVE
    objectives = TWO if several else LOSS
    trials = [
        Trial(one.number, one.params, SUCCEEDED, (bowl_loss(one.params), float(one.params["x"]))[: len(objectives)])
        for one in suggest(BOWL, [], 10_000, objectives=LOSS, algorithm="random")
    ]
    suggester = Suggester(BOWL, objectives, {"type": algorithm}, trials)

    for number in range(10_000, 10_010):
        params = suggester.ask(number)
        assert params is not None
        assert BOWL.refusal(params) == ""


def test_nothing_heavy_is_imported_for_what_does_not_need_it() -> None:
    """A coordinator with random search or a grid starts without Optuna, SciPy, scikit-learn and matplotlib."""
    path = [entry for entry in sys.path if entry]
    program = (
        f"import sys; sys.path[:0] = {path!r}\n"
        "from ultramarine_sweep.samplers import suggest\n"
        "print(*{'optuna', 'scipy', 'sklearn', 'matplotlib', 'numpy'} & {*sys.modules})\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)

    assert done.stdout.strip() == ""
