"""The gates of a rollout: whether the candidate is as good as asked, by evidence that may be looked at at any time.

All bounds of one step hold together, at every look, with a probability of 95 %. What that leaves is shared equally
among the gates that were asked for, after a tenth for the one that was not; within a gate between candidate and
champion, and for latencies among the bounds of the histogram.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import lgamma, log, pi

from ultramarine.resources.onlineendpoint_rollout import CLIENT_ERRORS, Gates

from .evidence import Counts, Evidence

ALPHA = 0.05
UNASKED = ALPHA / 10  # for the gate of 4xx if the spec does not have it: the others must not become slower
ASKED = ALPHA - UNASKED
SLOW, SURELY_SLOW = 0.01, 0.02  # a 99th percentile has a hundredth beyond it; two of them are what is surely excluded
FEWEST = 100  # requests of the champion before a 99th percentile is read off them
PASSED, FAILED, MORE = "Passed", "Failed", "InsufficientData"
SLACK = 0.02  # by so much the share of like answers may be smaller than wanted, as far as is surely excluded
MOST = 2.0**24  # times as many requests: beyond that nobody waits for them


@dataclass(frozen=True)
class Verdict:
    """What one gate says: Passed, Failed or InsufficientData, and the numbers in words."""

    gate: str
    outcome: str
    message: str


Judge = Callable[[Counts, Counts], Verdict]


def verdicts(gates: Gates, evidence: Evidence) -> tuple[Verdict, ...]:
    """Judge by each gate that is asked for."""
    judges: list[Callable[[float], Judge]] = []
    if (increase := gates.error_rate_increase) is not None:
        judges.append(lambda alpha: lambda one, other: errors(increase, one, other, alpha))
    if (refused := gates.client_error_rate_increase) is not None and refused < 1:
        judges.append(lambda alpha: lambda one, other: client_errors(refused, one, other, alpha))
    if (ratio := gates.p99_ratio) is not None:
        judges.append(lambda alpha: lambda one, other: p99(ratio, evidence.bounds, one, other, alpha))
    if (share := gates.agreement) is not None:
        judges.append(lambda alpha: lambda one, _: agreement(share, one, alpha))
    unasked = gates.client_error_rate_increase is None
    made = [judge((ASKED if unasked else ALPHA) / len(judges)) for judge in judges]
    if unasked:
        made.append(lambda one, other: client_errors(CLIENT_ERRORS, one, other, UNASKED))
    return tuple(_with_missing(judge, evidence) for judge in made)


def errors(increase: float, candidate: Counts, champion: Counts, alpha: float) -> Verdict:
    """Judge if the candidate's share of 5xx is at most so much larger than the champion's."""
    both = (candidate.errors, candidate.requests), (champion.errors, champion.requests)
    return _increase("errorRateIncrease", "5xx", increase, *both, alpha)


def client_errors(increase: float, candidate: Counts, champion: Counts, alpha: float) -> Verdict:
    """Judge if the candidate's share of 4xx is at most so much larger than the champion's."""
    both = (candidate.client_errors, candidate.requests), (champion.client_errors, champion.requests)
    return _increase("clientErrorRateIncrease", "4xx", increase, *both, alpha)


def _increase(
    gate: str, what: str, increase: float, one: tuple[float, float], other: tuple[float, float], alpha: float
) -> Verdict:
    """Compare two shares, each a part of a whole: the candidate's, and the champion's."""
    low, high = bounds(*one, alpha / 2)
    lower, upper = bounds(*other, alpha / 2)
    outcome = FAILED if low - upper > increase else PASSED if high - lower <= increase else MORE
    said = f"{what}: {_share(*one, low, high)} against {_share(*other, lower, upper)}"
    return Verdict(gate, outcome, f"{said}; at most {_percent(increase)} more allowed")


def p99(ratio: float, histogram: tuple[float, ...], candidate: Counts, champion: Counts, alpha: float) -> Verdict:
    """Whether the candidate's 99th percentile is at most so many times the champion's, both by the histogram's bounds.

    Failed: surely more than a hundredth takes longer than allowed, and surely more than of the champion's. Passed: not
    more than a hundredth did, and surely less than two hundredths do.
    """
    if champion.timed < FEWEST or len(champion.latency) != len(histogram):
        said = f"p99: the champion has {_count(champion.timed)} of the {FEWEST} requests that show its 99th percentile"
        return Verdict("p99Ratio", MORE, said)
    common = next(i for i in range(len(histogram)) if champion.within(i) >= (1 - SLOW) * champion.timed)
    # Rounded up to a bound, since only at bounds is counted; the last one where it lies beyond all of them.
    wanted = histogram[common] * ratio
    limit = next((i for i, bound in enumerate(histogram) if bound >= wanted), len(histogram) - 1)
    part = alpha / 2 / len(histogram)
    slow, slower = candidate.timed - candidate.within(limit), champion.timed - champion.within(limit)
    low, high = bounds(slow, candidate.timed, part)
    lower, upper = bounds(slower, champion.timed, part)
    outcome = MORE
    if low > max(SLOW, upper):
        outcome = FAILED
    elif slow <= SLOW * candidate.timed and high <= SURELY_SLOW:
        outcome = PASSED
    return Verdict(
        "p99Ratio",
        outcome,
        f"p99: {_share(slow, candidate.timed, low, high)} took longer than {histogram[limit]:g} ms against "
        f"{_share(slower, champion.timed, lower, upper)}, whose p99 is within {histogram[common]:g} ms; "
        f"1 % allowed, and surely less than 2 %",
    )


def agreement(wanted: float, candidate: Counts, alpha: float) -> Verdict:
    """Whether the candidate answers copies of the champion's requests as the champion does, at that share at least.

    Failed: surely fewer are answered alike. Passed: no fewer were, and surely no fewer than `SLACK` below.
    """
    agreed = min(candidate.agreed, candidate.compared)  # which may come from a status
    low, high = bounds(agreed, candidate.compared, alpha)
    outcome = MORE
    if high < wanted:
        outcome = FAILED
    elif agreed >= wanted * candidate.compared and low >= wanted - SLACK:
        outcome = PASSED
    said = (
        f"agreement: {_count(agreed)} of {_count(candidate.compared)} copies were answered alike "
        f"({_number(low)} to {_percent(high)})"
    )
    if not candidate.compared:
        said = "agreement: no copy was compared yet, which takes predictions by HTTP, of at most 64 rows"
    if candidate.unlike:
        said += f", {_count(candidate.unlike)} with an error or with outputs of other names or types"
    return Verdict("agreement", outcome, f"{said}; {_percent(wanted)} wanted")


def _with_missing(judge: Judge, evidence: Evidence) -> Verdict:
    """The verdict; where it lacks data, with a guess how many more requests of the candidate decide."""
    said = judge(evidence.candidate, evidence.champion)
    if said.outcome != MORE:
        return said
    copies = said.gate == "agreement"
    has = evidence.candidate.compared if copies else evidence.candidate.requests
    needs = needed(judge, evidence, copies=copies)
    guess = f"about {_count(needs - has)} more are needed" if needs else "at these rates no number of them would pass"
    what = "copies compared" if copies else "requests of the candidate"
    counted = f"{_count(has)} {what}"
    if not has:
        counted = "no copy compared yet" if copies else "no requests yet"
        guess = f"about {_count(needs)} are needed" if needs else ""
    return Verdict(said.gate, said.outcome, "; ".join([said.message, ", ".join(filter(None, [counted, guess]))]))


def needed(judge: Judge, evidence: Evidence, *, copies: bool = False) -> float:
    """With how many requests of the candidate the gate passes, if all goes on at the same rates; 0: never.

    With `copies` it is told how many copies that takes.
    """
    # Nothing is known of who was asked nothing: a quick request without fault is assumed.
    quick = Counts(1, 0, (1,) * len(evidence.bounds), 1, 1)
    one, other = (counts if counts.requests else quick for counts in (evidence.candidate, evidence.champion))
    one = one.with_copies_of(evidence.candidate if evidence.candidate.compared else quick)

    def passes(factor: float) -> bool:
        return judge(one.times(factor), other if evidence.ended else other.times(factor)).outcome == PASSED

    factor = 1.0
    while not passes(factor):
        factor *= 4
        if factor > MOST:
            return 0
    low = factor / 4
    while factor - low > 0.02 * factor:
        middle = (low + factor) / 2
        low, factor = (low, middle) if passes(middle) else (middle, factor)
    return (one.compared if copies else one.requests) * factor


def _count(number: float) -> str:
    return f"{number:,.0f}"


def _number(share: float) -> str:
    return f"{round(100 * share, 2):g}"


def _percent(share: float) -> str:
    return f"{_number(share)} %"


def _share(part: float, whole: float, low: float, high: float) -> str:
    return f"{_count(part)} of {_count(whole)} ({_number(low)} to {_percent(high)})"


HALVINGS = 32  # of an interval within 0..1: finer than any count that matters


def log_mixture(yes: float, of: float, share: float) -> float:
    """The logarithm of M(share); `share` lies between 0 and 1, and counts need not be whole."""
    no = of - yes
    mixed = lgamma(yes + 0.5) + lgamma(no + 0.5) - lgamma(of + 1) - log(pi)
    return mixed - yes * log(share) - no * log(1 - share)


def bounds(yes: float, of: float, alpha: float) -> tuple[float, float]:
    """The least and the greatest share that `yes` in `of` leaves possible; 0 and 1 before anything was counted."""
    if of <= 0:
        return 0.0, 1.0
    limit, middle = log(1 / alpha), yes / of
    low = 0.0 if yes <= 0 else _edge(yes, of, limit, outside=0.0, inside=middle)
    high = 1.0 if yes >= of else _edge(yes, of, limit, outside=1.0, inside=middle)
    return low, high


def _edge(yes: float, of: float, limit: float, outside: float, inside: float) -> float:
    """Where M comes to its limit: it has its minimum at the share that was counted, and rises to both sides."""
    for _ in range(HALVINGS):
        middle = (outside + inside) / 2
        if 0 < middle < 1 and log_mixture(yes, of, middle) < limit:
            inside = middle
        else:
            outside = middle
    return outside
