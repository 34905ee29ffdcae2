"""Early termination: who is stopped, when, and in which words; the best trial never is."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from random import Random
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ultramarine_contract.errors import InvalidSpec
from ultramarine_sweep.samplers.stopping import Hyperband, Stopper, Truncation, last_rung

LOSS = {"metric": "loss", "goal": "minimize"}
ACCURACY = {"metric": "accuracy", "goal": "maximize"}

ASHA = {"type": "asha", "minSteps": 1, "maxSteps": 27, "reductionFactor": 3}
RULES: list[dict[str, Any]] = [
    ASHA,
    {"type": "hyperband", "maxSteps": 27},
    {"type": "median"},
    {"type": "bandit", "slackFactor": 0.1},
    {"type": "bandit", "slackAmount": 0.1},
    {"type": "truncation", "truncationPercentage": 30, "evaluationInterval": 2},
]
each_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: "-".join(map(str, rule.values())))


def told(stopper: Stopper, points: Iterable[tuple[int, int, float]]) -> dict[int, str]:
    """Why which trials stop; what a stopped trial would have told is left out."""
    stopped: dict[int, str] = {}
    for number, step, value in points:
        if number not in stopped and (why := stopper.add(number, step, value)):
            stopped[number] = why
    return stopped


def in_turns(values: list[float], steps: int) -> list[tuple[int, int, float]]:
    """All trials tell the same value at each step, in turns."""
    return [(number, step, value) for step in range(1, steps + 1) for number, value in enumerate(values)]


def test_without_early_termination_nobody_stops() -> None:
    """A sweep that asks for none has none."""
    assert told(Stopper(None, LOSS), in_turns([0.1, 100.0], 50)) == {}


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        (ASHA, "asha: rung 1, 0.4 is not among the best third"),
        (ASHA | {"minSteps": 5, "reductionFactor": 2}, "asha: rung 5, 0.4 is not among the best half"),
        (ASHA | {"reductionFactor": 7}, "asha: rung 1, 0.4 is not among the best 7th"),
        (
            {"type": "median", "delayEvaluation": 3},
            "median: at step 3 its best, 0.4, is worse than 0.2, the median of 3 trials' averages",
        ),
        (
            {"type": "bandit", "slackFactor": 0.2, "evaluationInterval": 4},
            "bandit: at step 4 its best, 0.4, is beyond 0.12, which the best trial's 0.1 allows",
        ),
        (
            {"type": "bandit", "slackAmount": 0.15},
            "bandit: at step 1 its best, 0.4, is beyond 0.25, which the best trial's 0.1 allows",
        ),
        (
            {"type": "truncation", "truncationPercentage": 25},
            "truncation: at step 1 its best, 0.4, is among the worst 25 % of 4 trials",
        ),
    ],
)
def test_the_reason_says_what_was_compared(rule: dict[str, Any], reason: str) -> None:
    """The worst of four trials is stopped, in a sentence with its value, the step and the bound."""
    assert told(Stopper(rule, LOSS), in_turns([0.1, 0.2, 0.25, 0.4], 9))[3] == reason


@pytest.mark.parametrize(
    ("best", "allowed", "beyond"),
    [(0.8, 0.67, 0.66), (-0.8, -0.93, -0.94), (0.0, 0.0, -0.01)],
)
def test_a_slack_factor_of_a_maximised_metric_is_that_of_azure(best: float, allowed: float, beyond: float) -> None:
    """With a best of 0.8 and a factor of 0.2 what is below 0.8 / 1.2 stops; the best of negative ones does not."""
    rule = {"type": "bandit", "slackFactor": 0.2}

    assert set(told(Stopper(rule, ACCURACY), in_turns([best, allowed, beyond], 3))) == {2}


def test_the_first_evaluations_are_delayed_and_then_far_apart() -> None:
    """A trial is judged at multiples of evaluationInterval, from the first that is not below delayEvaluation."""
    stopper = Stopper({"type": "bandit", "slackAmount": 1, "evaluationInterval": 5, "delayEvaluation": 12}, LOSS)
    told(stopper, [(0, step, 0.0) for step in range(1, 31)])
    answers = [stopper.add(1, step, 9.0) != "" for step in range(1, 31)]

    assert [step for step, stopped in enumerate(answers, 1) if stopped] == [15, 20, 25, 30]


def test_a_trial_that_tells_rarely_is_judged_at_the_last_place_that_it_passed() -> None:
    """A jump over several rungs counts at the last of them, where others are as far."""
    stopper = Stopper(ASHA, LOSS)
    told(stopper, [(0, step, 1 / step) for step in range(1, 28)])

    assert stopper.add(1, 14, 0.2) == "asha: rung 9, 0.2 is not among the best third"
    assert stopper.add(2, 14, 0.1) == ""


def test_a_repeated_trial_is_not_judged_twice() -> None:
    """A trial that begins anew after its worker was lost is compared neither with itself nor counted again."""
    stopper = Stopper({"type": "truncation", "truncationPercentage": 50}, LOSS)
    told(stopper, in_turns([3.0], 10))

    assert told(stopper, in_turns([3.0], 10)) == {}
    assert "of 2 trials" in stopper.add(1, 1, 4.0)


@each_rule
def test_numbers_that_are_none_do_no_harm(rule: dict[str, Any]) -> None:
    """NaN and infinity are left out, of the trial and of what others are compared with."""
    stopper = Stopper(rule, LOSS)
    for value in (float("nan"), float("inf"), -float("inf")):
        assert told(stopper, in_turns([value] * 5, 30)) == {}
    assert set(told(stopper, in_turns([0.1] * 5, 30))) == set()


@each_rule
def test_equal_trials_all_go_on(rule: dict[str, Any]) -> None:
    """Nobody is stopped for being as good as all others."""
    assert told(Stopper(rule, LOSS), in_turns([0.5] * 12, 40)) == {}


@each_rule
@pytest.mark.parametrize("objective", [LOSS, ACCURACY], ids=["minimize", "maximize"])
def test_the_largest_floats_are_compared_like_others(rule: dict[str, Any], objective: dict[str, Any]) -> None:
    """Values whose differences are beyond floats stop nobody who is as good as all others, and not the best one."""
    most = sys.float_info.max
    for value in (most, -most):
        assert told(Stopper(rule, objective), in_turns([value] * 12, 40)) == {}
    stopped = told(Stopper(rule, objective), in_turns([1e308, -1e308, most, -most, *[0.5] * 8], 40))
    assert (3 if objective is LOSS else 2) not in stopped
    assert not any("nan" in why for why in stopped.values())


@each_rule
@pytest.mark.parametrize("objective", [LOSS, ACCURACY], ids=["minimize", "maximize"])
@given(
    values=st.lists(st.floats(0.01, 100), min_size=2, max_size=30, unique=True),
    seed=st.integers(0, 1000),
)
def test_the_best_of_all_is_never_stopped(
    rule: dict[str, Any], objective: dict[str, Any], values: list[float], seed: int
) -> None:
    """Where curves do not cross, the trial that is best at each step comes to its end, whoever runs beside it."""
    maximize = objective is ACCURACY
    curves = {
        number: [(number, step, -value - 1 / step if maximize else value + 1 / step) for step in range(1, 31)]
        for number, value in enumerate(values)
    }
    chance = Random(seed)
    points = []
    while curves:
        number = chance.choice(sorted(curves))
        points.append(curves[number].pop(0))
        if not curves[number]:
            del curves[number]

    assert values.index(min(values)) not in told(Stopper(rule, objective), points)


@each_rule
@given(
    st.lists(
        st.tuples(st.integers(0, 8), st.integers(0, 40), st.floats(-1e308, 1e308, width=64)),
        max_size=60,
    )
)
def test_maximising_is_minimising_the_negative(rule: dict[str, Any], points: list[tuple[int, int, float]]) -> None:
    """The goal turns values around, and nothing else; but for a factor, which goes by what is larger."""
    if "slackFactor" in rule:
        return
    lower = told(Stopper(rule, LOSS), points)
    upper = told(Stopper(rule, ACCURACY), [(number, step, -value) for number, step, value in points])

    assert lower.keys() == upper.keys()


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=60))
def test_asha_is_that_of_optuna(values: list[float]) -> None:
    """The same trials, one after another, stop at the same steps as by Optuna's successive halving."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)
    study = optuna.create_study(pruner=pruner)
    stopper = Stopper({"type": "asha", "reductionFactor": 3}, LOSS)

    for number, value in enumerate(values):
        trial = study.ask()
        for step in range(1, 28):
            trial.report(value, step)
            why = stopper.add(number, step, value)
            assert trial.should_prune() == bool(why)
            if why:
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break
        else:
            study.tell(trial, value)


@given(st.integers(1, 50), st.integers(2, 16), st.integers(0, 500), st.integers(0, 2000))
def test_rungs_are_powers_below_the_last_step(least: int, factor: int, most: int, step: int) -> None:
    """A rung is minSteps times a power of the factor, at most the step, below maxSteps, and the last such."""
    rungs = [rung for power in range(12) if (rung := least * factor**power) <= step and not (most and rung >= most)]

    assert last_rung(least, factor, most, step) == max(rungs, default=-1)


def test_brackets_of_hyperband_begin_later_and_later_and_have_fewer_trials() -> None:
    """With 27 steps there are four brackets; the last one stops nobody, and a trial's number says which is its own."""
    rule = Hyperband(1.0, 1, 3, 27)
    share = [0] * 4
    for number in range(2000):
        share[rule.bracket(number)] += 1

    assert [bracket.least for bracket in rule.brackets] == [1, 3, 9, 27]
    assert share == sorted(share, reverse=True)
    assert min(share) > 100
    assert rule.brackets[3].place(0, 27) == -1


def test_brackets_do_not_compete() -> None:
    """A bad trial is not stopped by better ones of another bracket, and the reason names the bracket."""
    rule = Hyperband(1.0, 1, 3, 27)
    numbers = {rule.bracket(number): number for number in range(200)}
    stopper = Stopper({"type": "hyperband", "maxSteps": 27}, LOSS)
    told(stopper, [(numbers[1], step, 0.1) for step in range(1, 28)])

    assert told(stopper, [(numbers[0], step, 0.9) for step in range(1, 28)]) == {}
    other = next(number for number in range(200) if rule.bracket(number) == 0 and number != numbers[0])
    assert stopper.add(other, 1, 1.0) == "hyperband, bracket 1 of 4: rung 1, 1 is not among the best third"


def test_asha_spends_a_fraction_of_the_steps() -> None:
    """Of 200 trials in random order the best one is found with less than a third of all steps."""
    values = [Random(seed).random() for seed in range(200)]
    stopper = Stopper(ASHA | {"maxSteps": 81}, LOSS)
    spent = 0
    ended = []
    for number, value in enumerate(values):
        for step in range(1, 82):
            spent += 1
            if stopper.add(number, step, value + 1 / step):
                break
        else:
            ended.append(number)

    assert values.index(min(values)) in ended
    assert spent < 200 * 81 / 3


def test_a_paused_trial_goes_on_once_it_is_among_the_best() -> None:
    """The second best of two waits, and goes on when six have come to its rung, of which the best two may."""
    stopper = Stopper(ASHA, LOSS)
    for number, loss in enumerate([1.0, 2.0, 3.0, 4.0, 5.0]):
        if stopper.add(number, 1, loss):
            assert stopper.pause(number)
        assert stopper.promoted() is None
    stopper.add(5, 1, 6.0)

    assert stopper.promoted() == 1
    stopper.resume(1)
    assert stopper.promoted() is None
    assert stopper.add(1, 1, 0.0) == ""
    assert stopper.add(1, 3, 2.0) == ""


@pytest.mark.parametrize("objective", [LOSS, ACCURACY])
def test_who_goes_on_first_is_on_the_highest_rung_and_the_best_of_it(objective: dict[str, Any]) -> None:
    """However many may go on: those that came far first, and of these the better ones."""
    stopper = Stopper(ASHA | {"reductionFactor": 2}, objective)
    sign = 1.0 if objective is LOSS else -1.0
    far, near = range(6), range(10, 18)
    for step, numbers in ((1, far), (2, far), (1, near)):
        told(stopper, [(number, step, sign * number) for number in numbers])
    for number in (2, 1, 12, 10):
        stopper.pause(number)
    order = []
    while (number := stopper.promoted()) is not None:
        order.append(number)
        stopper.resume(number)

    assert order == [1, 2, 10]  # 12 is behind seven of 14


def test_brackets_of_hyperband_promote_their_own() -> None:
    """A rung of one bracket grows by its own trials only."""
    stopper = Stopper({"type": "hyperband", "maxSteps": 27, "reductionFactor": 2}, LOSS)
    rule: Any = stopper._rule
    late, early = ([number for number in range(500) if rule.bracket(number) == each][:4] for each in (2, 0))
    told(stopper, [(number, 4, float(place)) for place, number in enumerate(late[:3])])
    stopper.pause(late[1])
    told(stopper, [(number, step, 9.0) for number in early for step in (1, 2, 4)])
    assert stopper.promoted() is None
    stopper.add(late[3], 4, 9.0)

    assert stopper.promoted() == late[1]


@pytest.mark.parametrize("rule", [None, *RULES[2:]])
def test_other_rules_pause_nobody(rule: dict[str, Any] | None) -> None:
    """They have no rungs at which a trial could wait, nor has a trial of asha that has not come to one."""
    stopper = Stopper(rule, LOSS)
    told(stopper, in_turns([0.1, 0.2, 0.25, 9.0], 9))

    assert not stopper.pause(3)
    assert stopper.promoted() is None
    assert not Stopper(ASHA | {"minSteps": 5}, LOSS).pause(0)


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=60), st.integers(2, 4))
def test_promotion_leaves_nobody_behind_who_is_among_the_best(values: list[float], factor: int) -> None:
    """When nobody is promoted any more, exactly those have gone on that came in time or are the best of their rung."""
    stopper = Stopper({"type": "asha", "reductionFactor": factor}, LOSS)
    gone_on, paused = set(), set()
    for number, value in enumerate(values):
        if stopper.add(number, 1, value):
            stopper.pause(number)
            paused.add(number)
        else:
            gone_on.add(number)
        while (found := stopper.promoted()) is not None:
            stopper.resume(found)
            paused.remove(found)
            gone_on.add(found)

    best = sorted(values)[: max(1, len(values) // factor)]
    assert all(values[number] > best[-1] for number in paused)
    assert gone_on | paused == set(range(len(values)))


def test_a_trial_that_tells_a_million_values_costs_little_memory() -> None:
    """However many steps a trial tells, what is kept of it grows with the logarithm of their number."""
    stopper = Stopper({"type": "truncation", "truncationPercentage": 10}, LOSS)
    for step in range(1, 1_000_000):
        stopper.add(0, step, 1.0)

    assert isinstance(stopper._rule, Truncation)
    assert len(stopper._rule._values) < 4000


def test_an_unknown_rule_is_refused() -> None:
    """A type that is none says which there are."""
    with pytest.raises(
        InvalidSpec, match=r"spec\.earlyTermination\.type is luck; choose one of asha, hyperband, median"
    ):
        Stopper({"type": "luck"}, LOSS)
