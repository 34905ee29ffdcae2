"""What the gates of a rollout conclude from counted requests, and how sure they may be."""

from __future__ import annotations

import random
from math import exp, log
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from ultramarine.resources.onlineendpoint_rollout import CLIENT_ERRORS, Gates, RolloutCounters
from ultramarine_cluster.paths import REPOSITORY
from ultramarine_contract.routes import DeploymentFigures, RouteState
from ultramarine_gateway.config.bootstrap import fine_milliseconds
from ultramarine_operator.kinds.onlineendpoint.rollout.confidence import bounds, log_mixture
from ultramarine_operator.kinds.onlineendpoint.rollout.decision import mixed
from ultramarine_operator.kinds.onlineendpoint.rollout.evidence import Counts, Evidence, evidence_since
from ultramarine_operator.kinds.onlineendpoint.rollout.gates import (
    ALPHA,
    EXPLICIT_ALPHA,
    IMPLICIT_ALPHA,
    SLACK,
    agreement,
    check_gates,
    client_errors,
    errors,
    needed,
    p99,
)

MS = tuple(float(bound) for bound in fine_milliseconds())


def test_known_bounds():
    """After one no the martingale is 1/2 / (1 - p); at the bounds of 10 in 100 it is 1 / alpha, reckoned in steps."""
    assert bounds(0, 0, 0.05) == (0, 1)
    assert bounds(0, 1, 0.05) == (0, pytest.approx(1 - 0.05 / 2))
    assert bounds(1, 1, 0.05) == (pytest.approx(0.05 / 2), 1)
    for share in bounds(10, 100, 0.05):
        won, yes = 1.0, 0
        for number in range(100):
            guess = (yes + 0.5) / (number + 1)  # that a yes comes next, as Krichevsky and Trofimov guess it
            if number % 10 == 9:
                won, yes = won * guess / share, yes + 1
            else:
                won *= (1 - guess) / (1 - share)
        assert won == pytest.approx(20)
        assert exp(log_mixture(10, 100, share)) == pytest.approx(20)


@given(st.integers(1, 10**7), st.floats(0, 1), st.sampled_from([0.05, 0.001]))
def test_bounds_enclose_what_was_counted(of, part, alpha):
    """Whatever was counted: the share itself is possible, and with a smaller alpha more is."""
    yes = round(part * of)
    low, high = bounds(yes, of, alpha)
    wider = bounds(yes, of, alpha / 10)

    assert 0 <= low <= yes / of <= high <= 1
    assert wider[0] <= low
    assert high <= wider[1]


@pytest.mark.parametrize("share", [0.01, 0.2])
def test_the_bounds_hold_at_every_look(share):
    """Of 1,000 streams that are looked at after each of 1,000 requests, 5 % ever leave the bounds, and no more.

    A fixed 95 % interval, looked at as often, is left by nearly half of them.
    """
    dice, left = random.Random(7), 0
    for _ in range(1000):
        yes = 0
        for of in range(1, 1001):
            yes += dice.random() < share
            if log_mixture(yes, of, share) >= log(1 / ALPHA):
                low, high = bounds(yes, of, ALPHA)
                assert not low < share < high
                left += 1
                break
    # 50 are allowed on average; more than 70 of 1,000 would be by chance once in 500 times.
    assert 1 <= left <= 70


def test_no_bound_that_holds_once_holds_at_every_look():
    """The test above can fail: the usual interval of 95 %, looked at after each request, is left far more often."""
    dice, left = random.Random(7), 0
    for _ in range(300):
        yes = 0
        for of in range(1, 1001):
            yes += dice.random() < 0.2
            spread = 1.96 * (0.2 * 0.8 / of) ** 0.5
            if of > 30 and abs(yes / of - 0.2) > spread:
                left += 1
                break
    assert left > 60


@pytest.mark.parametrize(
    ("candidate", "champion", "increase", "outcome"),
    [
        ((0, 0), (0, 0), 0.01, "InsufficientData"),
        ((0, 100), (0, 900), 0.01, "InsufficientData"),
        ((0, 1000), (0, 9000), 0.01, "Passed"),
        ((10, 100), (0, 900), 0.01, "Failed"),
        ((2, 100), (0, 900), 0.01, "InsufficientData"),
        ((300, 1000), (2700, 9000), 0.1, "Passed"),  # as bad as the champion is no failure of the candidate
        ((12, 240), (1, 2160), 0.005, "Failed"),
        ((50, 50), (0, 0), 0.5, "InsufficientData"),  # nothing is known of the champion
    ],
)
def test_the_errors_gate(candidate, champion, increase, outcome):
    """It passes and fails by what the bounds leave possible, and lacks data between the two."""
    one, other = (Counts(requests=of, errors=yes) for yes, of in (candidate, champion))
    assert errors(increase, one, other, ALPHA).verdict == outcome


def test_the_errors_gate_shows_its_numbers():
    """The sentence has the counts and the bounds of both, and what is allowed."""
    said = errors(0.005, Counts(240, 12), Counts(2160, 1), ALPHA).message
    assert said == "5xx: 12 of 240 (1.42 to 11.82 %) against 1 of 2,160 (0 to 0.52 %); at most 0.5 % more allowed"


def taking(requests, milliseconds, slow=0, slowly=5000):
    """Requests, of which so many take `slowly` and the others so many milliseconds."""
    latency = tuple((requests - slow) * (bound >= milliseconds) + slow * (bound >= slowly) for bound in MS)
    return Counts(requests, 0, latency)


@pytest.mark.parametrize(
    ("candidate", "champion", "outcome"),
    [
        (taking(0, 9), taking(0, 9), "InsufficientData"),
        (taking(500, 9), taking(99, 9), "InsufficientData"),  # a hundred show a 99th percentile
        (taking(100, 9), taking(900, 9), "InsufficientData"),
        (taking(800, 9), taking(7200, 9), "Passed"),
        (taking(800, 11), taking(7200, 9), "Passed"),  # within 1.2 times, rounded up to a bound of the histogram
        (taking(30, 40), taking(900, 9), "Failed"),
        (taking(800, 9, slow=40), taking(7200, 9), "Failed"),  # 5 % beyond
        (taking(800, 9, slow=10), taking(7200, 9), "InsufficientData"),  # 1.25 %: perhaps too many
        (taking(4000, 9, slow=40), taking(36000, 9, slow=360), "Passed"),  # 1 %, as of the champion's
        (taking(800, 9, slow=40), taking(7200, 9, slow=360), "Passed"),  # the champion's own p99 is as slow
    ],
)
def test_the_p99_gate(candidate, champion, outcome):
    """It compares the hundredth that takes longest, and rounds to the bounds of the histogram."""
    assert p99(1.2, MS, candidate, champion, ALPHA).verdict == outcome


@pytest.mark.parametrize(
    ("agreed", "compared", "wanted", "outcome"),
    [
        (0, 0, 0.98, "InsufficientData"),
        (50, 50, 0.98, "InsufficientData"),
        (200, 200, 0.98, "Passed"),
        (1960, 2000, 0.98, "Passed"),  # exactly what is wanted, of which nobody can be sure
        (1959, 2000, 0.98, "InsufficientData"),  # perhaps less than wanted
        (95, 100, 0.98, "InsufficientData"),
        (900, 1000, 0.98, "Failed"),
        (0, 5, 0.98, "Failed"),
        (400, 400, 1, "Passed"),
        (399, 400, 1, "Failed"),  # it is not all
        (10_000, 20_000, 0.5, "Passed"),
        (1, 1, 0.01, "Passed"),
    ],
)
def test_the_agreement_gate(agreed, compared, wanted, outcome):
    """It passes from the wanted share on when surely hardly less is, and fails when surely less than wanted is."""
    assert agreement(wanted, Counts(compared=compared, agreed=agreed), ALPHA).verdict == outcome


def test_the_agreement_gate_shows_its_numbers():
    """How many, what that leaves possible, what is wanted; and what could not be compared."""
    said = agreement(0.98, Counts(compared=490, agreed=480), ALPHA).message
    assert said == "agreement: 480 of 490 copies were answered alike (94.82 to 99.48 %); 98 % required"
    said = agreement(0.98, Counts(compared=490, agreed=0, unlike=490), ALPHA).message
    assert "; 98 % required" in said
    assert ", 490 with an error or with outputs of other names or types;" in said
    said = agreement(0.98, Counts(requests=1000), ALPHA).message
    assert said.startswith("agreement: no copy was compared yet, which takes predictions by HTTP, of at most 64 rows;")


@given(st.integers(0, 3000), st.floats(0, 1), st.floats(0.01, 1))
def test_one_more_answer_alike_is_never_worse(compared, part, wanted):
    """Whatever was counted: a copy that was answered alike instead of otherwise leads no farther from passing."""
    order = ["Failed", "InsufficientData", "Passed"]
    agreed = int(part * compared)
    said, better = (
        agreement(wanted, Counts(compared=compared, agreed=min(compared, n)), ALPHA).verdict
        for n in (agreed, agreed + 1)
    )
    assert order.index(said) <= order.index(better)


@pytest.mark.parametrize(("share", "wrong"), [(0.95, "Failed"), (0.95 - SLACK, "Passed")])
def test_agreement_is_hardly_ever_misjudged(share, wrong):
    """Of 200 candidates with just the wanted share, looked at after each of 2,000 copies, 5 % are failed, and no more.

    As many are passed of those that are worse by the slack.
    """
    dice, misjudged = random.Random(3), 0
    for _ in range(200):
        agreed = 0
        for compared in range(1, 2001):
            agreed += dice.random() < share
            # Bounds are dear; where they cannot be left, nothing is judged.
            if compared % 20 == 0 and agreement(0.95, Counts(compared=compared, agreed=agreed), ALPHA).verdict == wrong:
                misjudged += 1
                break
    # 10 are allowed on average; more than 18 would be by chance once in 100 times.
    assert misjudged <= 18


def test_copies_are_asked_for_in_copies():
    """A verdict that lacks them says how many of them are needed, however many requests there were."""
    few = Evidence(Counts(5000, 0, (), 100, 100), Counts(5000), MS, ())
    lacking, _ = check_gates(Gates(agreement=0.98), few)
    assert "; 100 copies compared, about " in lacking.message
    more = float(lacking.message.rsplit("about ")[1].split()[0])
    enough = Evidence(Counts(0, 0, (), 100 + more, 100 + more), Counts(), MS, ())
    assert check_gates(Gates(agreement=0.98), enough)[0].verdict == "Passed"

    nothing = Evidence(Counts(), Counts(), (), ())
    lacking, _ = check_gates(Gates(agreement=0.98), nothing)
    assert "; no copy compared yet, about " in lacking.message
    hopeless, _ = check_gates(Gates(agreement=0.98), Evidence(Counts(0, 0, (), 100, 97), Counts(), MS, ()))
    assert hopeless.message.endswith("100 copies compared, at these rates no number of them would pass")


def test_an_equal_candidate_is_hardly_ever_failed():
    """Of 200 candidates that are as their champion, looked at ten times each, at most one in twenty is failed."""
    dice, failed = random.Random(11), 0
    for _ in range(200):
        one = other = Counts(latency=(0,) * len(MS))
        for _ in range(10):
            one, other = one.plus(drawn(dice, 40)), other.plus(drawn(dice, 160))
            said = (errors(0, one, other, ALPHA / 2), p99(1, MS, one, other, ALPHA / 2))
            if any(verdict.verdict == "Failed" for verdict in said):
                failed += 1
                break
    assert failed <= 10


def drawn(dice, requests):
    """So many requests of a server of which 2 % fail, and whose times lie around 20 ms with a long tail."""
    times = [dice.lognormvariate(3, 0.5) for _ in range(requests)]
    latency = tuple(sum(time <= bound for time in times) for bound in MS)
    return Counts(requests, sum(dice.random() < 0.02 for _ in times), latency)


def test_a_verdict_that_lacks_data_says_how_much():
    """It guesses from the rates how many more requests pass the gate, and says where none would."""
    few = Evidence(Counts(100, 0, taking(100, 9).latency), taking(900, 9), MS, ())
    lacking, slow, _ = check_gates(Gates(errorRateIncrease=0.01, p99Ratio=1.2), few)
    more = float(lacking.message.rsplit("about ")[1].split()[0].replace(",", ""))
    enough = Evidence(taking(100 + more, 9), taking(9 * (100 + more), 9), MS, ())
    assert [said.verdict for said in check_gates(Gates(errorRateIncrease=0.01), enough)] == ["Passed", "Passed"]
    assert "100 requests of the candidate, about" in slow.message

    worse = Evidence(Counts(300, 6), Counts(2700, 0), MS, ())
    hopeless, _ = check_gates(Gates(errorRateIncrease=0.01), worse)
    assert hopeless.message.endswith("300 requests of the candidate, at these rates no number of them would pass")

    nothing = Evidence(Counts(), Counts(), (), ())
    said = check_gates(Gates(errorRateIncrease=0.01, p99Ratio=1.2), nothing)
    assert [verdict.verdict for verdict in said] == ["InsufficientData"] * 3
    assert all("no requests yet" in verdict.message for verdict in said)
    assert not any("no number of them" in verdict.message for verdict in said)


@pytest.mark.parametrize(
    ("asked", "gates", "outcome"),
    [
        ({}, ["errorRateIncrease", "clientErrorRateIncrease"], "Failed"),
        ({"clientErrorRateIncrease": 0.01}, ["errorRateIncrease", "clientErrorRateIncrease"], "Failed"),
        ({"clientErrorRateIncrease": 1}, ["errorRateIncrease"], ""),
    ],
)
def test_refusals_are_judged_unless_that_is_turned_off(asked, gates, outcome):
    """A candidate that answers 400 to everything is failed after a few requests, whether or not gates speak of 4xx."""
    evidence = Evidence(Counts(6, client_errors=6), Counts(54, client_errors=1), MS, ())
    said = check_gates(Gates(errorRateIncrease=0.01, **asked), evidence)
    assert [verdict.gate for verdict in said] == gates
    assert [verdict.verdict for verdict in said[1:]] == [outcome] * bool(outcome)
    if not asked:
        assert said[1].message.startswith("4xx: 6 of 6 (")
        assert said[1].message.endswith("; at most 5 % more allowed")


def test_refusals_of_both_sides_are_no_fault_of_the_candidate():
    """Clients that ask wrongly are refused by both alike."""
    both = Evidence(Counts(2000, client_errors=200), Counts(18000, client_errors=1800), MS, ())
    assert [said.verdict for said in check_gates(Gates(errorRateIncrease=0.01), both)] == ["Passed", "Passed"]


def test_the_gate_that_nobody_asked_for_makes_the_others_hardly_slower():
    """It needs fewer requests than those of 1 or 2 %, and takes no more than 2 % off their pace."""
    fast = Evidence(Counts(1), Counts(9), MS, ())
    alone = needed(lambda one, other: errors(0.01, one, other, ALPHA), fast)
    beside = needed(lambda one, other: errors(0.01, one, other, EXPLICIT_ALPHA), fast)
    assert beside <= 1.02 * alone
    assert needed(lambda one, other: client_errors(CLIENT_ERRORS, one, other, IMPLICIT_ALPHA), fast) < 200


def figures(requests, errors=0, latency=()):
    """What a gateway pod says of one deployment."""
    return DeploymentFigures(requests, errors, 0, tuple(zip(MS, latency, strict=False)))


def says(pod, **deployments):
    """One gateway pod."""
    return RouteState("v", pod=pod, figures=deployments)


def count(proxies, base=()):
    """The evidence of green against blue."""
    return evidence_since("green", ["blue"], tuple(proxies), base)


def test_evidence_counts_from_the_base_and_over_all_gateway_pods():
    """What was there when the step began is subtracted, for each gateway pod, and the rest is added up."""
    start = count([says("a", blue=figures(100, 5), green=figures(7, 1)), says("b", blue=figures(50), green=figures(0))])
    assert (start.candidate.requests, start.champion.requests) == (0, 0)

    later = [says("a", blue=figures(190, 6), green=figures(17, 3)), says("b", blue=figures(60), green=figures(2))]
    got = count(later, start.base)
    assert (got.candidate.requests, got.candidate.errors) == (12, 2)
    assert (got.champion.requests, got.champion.errors) == (100, 1)
    assert got.base == start.base, "nothing is written as long as counters rise"


def test_copies_are_counted_from_the_base_too():
    """They are the candidate's, and stand beside its requests."""
    green = figures(7)
    start = count([says("a", blue=figures(100), green=replace(green, compared=50, agreed=40, unlike=5))])
    later = replace(green, compared=60, agreed=49, unlike=6)
    got = count([says("a", blue=figures(100), green=later)], start.base).candidate
    assert (got.compared, got.agreed, got.unlike) == (10, 9, 1)


def test_an_envoy_that_was_restarted_counts_from_now():
    """Its counters have fallen: what it says is the new base, and the other pod's evidence stays."""
    start = count([says("a", blue=figures(100), green=figures(10)), says("b", blue=figures(0), green=figures(0))])
    again = [says("a", blue=figures(3), green=figures(1)), says("b", blue=figures(20), green=figures(5))]
    got = count(again, start.base)
    assert (got.candidate.requests, got.champion.requests) == (5, 20)

    later = [says("a", blue=figures(300), green=figures(41)), says("b", blue=figures(20), green=figures(5))]
    assert count(later, got.base).candidate.requests == 45


def test_a_gateway_pod_that_comes_counts_from_now_and_one_that_goes_takes_its_evidence_along():
    """Nobody knows what a pod that comes has counted before; one that was away is as new."""
    start = count([says("a", blue=figures(0), green=figures(0))])
    both = count(
        [says("a", blue=figures(9), green=figures(1)), says("c", blue=figures(70), green=figures(30))], start.base
    )
    assert (both.candidate.requests, both.champion.requests) == (1, 9)
    alone = count([says("c", blue=figures(75), green=figures(32))], both.base)
    assert (alone.candidate.requests, alone.champion.requests) == (2, 5)
    back = count(
        [says("a", blue=figures(90), green=figures(10)), says("c", blue=figures(75), green=figures(32))], alone.base
    )
    assert (back.candidate.requests, back.champion.requests) == (2, 5)


def test_latencies_that_were_not_counted_yet_are_none():
    """A deployment without a request has no histogram; the first ones that it answers are all of them new."""
    start = count([says("a", blue=figures(5, latency=[5] * len(MS)), green=figures(0))])
    got = count(
        [says("a", blue=figures(6, latency=[6] * len(MS)), green=figures(2, latency=[2] * len(MS)))], start.base
    )
    assert (got.candidate.timed, got.champion.timed, got.bounds) == (2, 1, MS)


@pytest.mark.parametrize(
    "proxies",
    [
        [],
        [RouteState("v", pod="a")],
        [says("a", blue=figures(1)), RouteState("v", pod="b")],
        [says("a", blue=figures(1)), replace(says("a", blue=figures(1)), pod="")],
        [
            says("a", blue=figures(1, latency=[1] * len(MS))),
            says("b", blue=DeploymentFigures(1, 0, 0, ((5.0, 1),))),
        ],
    ],
)
def test_figures_that_are_not_all_there_are_no_evidence(proxies):
    """A gateway pod that tells none, or counts latencies by other bounds than another: nobody guesses."""
    assert count(proxies) is None


@given(
    st.builds(
        RolloutCounters,
        requests=st.integers(0, 2**63 - 1),
        errors=st.integers(0, 2**63 - 1),
        latency=st.lists(st.integers(0, 10**40), min_size=len(MS), max_size=len(MS)).map(
            lambda counts: " ".join(map(str, counts))
        )
        | st.text(max_size=20),
    )
)
@settings(max_examples=50, deadline=None)
def test_any_champion_in_the_status_is_survived(counters):
    """What the others are said to have shown may be anything; each gate says something of it."""
    evidence = Evidence(taking(500, 9), Counts.read(counters), MS, (), ended=True)
    said = check_gates(Gates(errorRateIncrease=0.01, p99Ratio=1.2), evidence)
    assert [verdict.gate for verdict in said] == ["errorRateIncrease", "p99Ratio", "clientErrorRateIncrease"]


def test_what_anybody_wrote_into_the_status_is_survived():
    """Counters that cannot be read, or that are larger than anything, count from now."""
    start = count([says("a", blue=figures(5, latency=[5] * len(MS)), green=figures(1))])
    odd = [counters.model_copy(update={"latency": "x -1 é ²", "requests": 10**30}) for counters in start.base]
    got = count([says("a", blue=figures(5, latency=[5] * len(MS)), green=figures(1))], odd)
    assert (got.candidate.requests, got.champion.requests) == (0, 0)


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 50), min_size=1).map(
        lambda parts: {name: part * 100 // sum(parts.values()) for name, part in parts.items()}
    ),
    st.integers(1, 100),
)
def test_shares_are_whole_and_sum_to_100(champions, percent):
    """Whatever traffic says: the candidate has its percent, the others the rest in proportion, within one percent."""
    champions["a"] = champions.get("a", 0) + 100 - sum(champions.values())
    got = mixed(champions, "candidate", percent)

    assert sum(got.values()) == 100
    assert got["candidate"] == percent
    for name, share in champions.items():
        assert abs(got.get(name, 0) - share * (100 - percent) / 100) < 1


def table() -> list[str]:
    """How many requests of the candidate each gate needs to pass, beside nine times as many of the champion."""
    lines = []
    for increase in (0.005, 0.01, 0.02, 0.05):
        said = [
            needed(lambda new, old: errors(increase, new, old, EXPLICIT_ALPHA / 2), Evidence(one, one.times(9), MS, ()))  # noqa: B023
            for one in (Counts(1, 0), Counts(1, 0.01))
        ]
        lines.append(f"| `errorRateIncrease: {increase:g}` | {said[0]:,.0f} | {said[1]:,.0f} |")
    said = [
        needed(lambda one, other: p99(1.2, MS, one, other, EXPLICIT_ALPHA / 2), Evidence(one, taking(1e4, 9), MS, ()))
        for one in (taking(1, 9), taking(1, 9, slow=0.005))
    ]
    lines.append(f"| `p99Ratio` | {said[0]:,.0f} | {said[1]:,.0f} |")
    parts = (1, 0.5, 0.1, 0.05)
    wrong = [fails(lambda n: errors(0.01, Counts(n, n * part), Counts(9 * n, 0), EXPLICIT_ALPHA / 2)) for part in parts]  # noqa: B023
    slow = [
        fails(lambda n: p99(1.2, MS, taking(n, 9, slow=n * part), taking(max(9 * n, 100), 9), EXPLICIT_ALPHA / 2))  # noqa: B023
        for part in parts
    ]
    lines.append(f"| `errorRateIncrease: 0.01` | {' | '.join(map(str, wrong))} |")
    lines.append(f"| `p99Ratio` | {' | '.join(map(str, slow))} |")
    return lines + agreements()


def agreements() -> list[str]:
    """How many copies the gate of agreement needs to pass and to fail, beside both other gates."""
    lines = []
    for wanted in (0.9, 0.95, 0.98, 0.99):
        passed = [
            needed(lambda one, _: agreement(wanted, one, EXPLICIT_ALPHA / 3), evidence, copies=True)  # noqa: B023
            for evidence in (Evidence(Counts(1, 0, (), 1, rate), Counts(1), MS, ()) for rate in (1, 0.995, 0.99))
        ]
        failed = [
            fails(lambda n: agreement(wanted, Counts(compared=n, agreed=n * rate), EXPLICIT_ALPHA / 3))  # noqa: B023
            for rate in (0, 0.5, 0.8)
        ]
        numbers = [*(f"{number:,.0f}" for number in passed), *map(str, failed)]
        lines.append(f"| `agreement: {wanted:g}` | {' | '.join(numbers)} |")
    return lines


def fails(judge):
    """The number of requests, or copies, by which a gate has failed."""
    return next(number for number in range(1, 1000) if judge(number).verdict == "Failed")


def test_the_table_in_the_docs_is_what_the_code_needs():
    """docs/rollouts.md says how many requests a gate takes; the numbers are the code's."""
    text = Path(REPOSITORY / "docs" / "rollouts.md").read_text()
    assert [line for line in table() if line not in text] == []
