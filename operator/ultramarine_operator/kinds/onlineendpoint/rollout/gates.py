"""Gates of a rollout: comparison of candidate and champion by evidence that may be assessed at any time.

All bounds of a step hold together, at every pass, with a probability of 95 %. A tenth of the other 5 % is for the gate
on 4xx if the spec does not set it. The gates share the rest equally: each divides its part between candidate and
champion, and the latency gate also among the bounds of the histogram.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ultramarine.resources.onlineendpoint_rollout import CLIENT_ERRORS, Gates

from .confidence import bounds
from .evidence import Counts, Evidence

ALPHA = 0.05
IMPLICIT_ALPHA = ALPHA / 10  # for the gate on 4xx if the spec does not set it: the others must not become slower
EXPLICIT_ALPHA = ALPHA - IMPLICIT_ALPHA
SLOW, SURELY_SLOW = 0.01, 0.02  # the share beyond a 99th percentile, and the share that evidence must exclude
MIN_REQUESTS = 100  # of the champion, for its 99th percentile
PASSED, FAILED, MORE = "Passed", "Failed", "InsufficientData"
SLACK = 0.02  # below the required share of equal answers, which evidence must exclude
MAX_FACTOR = 2.0**24  # times as many requests; waiting for more is pointless


@dataclass(frozen=True)
class GateResult:
    """Result of one gate: Passed, Failed or InsufficientData, and its figures."""

    gate: str
    verdict: str
    message: str


Gate = Callable[[Counts, Counts], GateResult]  # of candidate and champion


def check_gates(gates: Gates, evidence: Evidence) -> tuple[GateResult, ...]:
    """Check each gate of the spec, and the one on 4xx."""
    explicit: list[Callable[[float], Gate]] = []
    if (increase := gates.error_rate_increase) is not None:
        explicit.append(lambda alpha: lambda new, old: errors(increase, new, old, alpha))
    if (refused := gates.client_error_rate_increase) is not None and refused < 1:
        explicit.append(lambda alpha: lambda new, old: client_errors(refused, new, old, alpha))
    if (ratio := gates.p99_ratio) is not None:
        explicit.append(lambda alpha: lambda new, old: p99(ratio, evidence.bounds, new, old, alpha))
    if (share := gates.agreement) is not None:
        explicit.append(lambda alpha: lambda new, _: agreement(share, new, alpha))
    is_implicit = gates.client_error_rate_increase is None
    made = [gate((EXPLICIT_ALPHA if is_implicit else ALPHA) / len(explicit)) for gate in explicit]
    if is_implicit:
        made.append(lambda new, old: client_errors(CLIENT_ERRORS, new, old, IMPLICIT_ALPHA))
    return tuple(_with_missing(gate, evidence) for gate in made)


def errors(increase: float, candidate: Counts, champion: Counts, alpha: float) -> GateResult:
    """Check that the candidate's share of 5xx exceeds the champion's by at most `increase`."""
    both = (candidate.errors, candidate.requests), (champion.errors, champion.requests)
    return _increase("errorRateIncrease", "5xx", increase, *both, alpha)


def client_errors(increase: float, candidate: Counts, champion: Counts, alpha: float) -> GateResult:
    """Check that the candidate's share of 4xx exceeds the champion's by at most `increase`."""
    both = (candidate.client_errors, candidate.requests), (champion.client_errors, champion.requests)
    return _increase("clientErrorRateIncrease", "4xx", increase, *both, alpha)


def _increase(
    gate: str, what: str, increase: float, new: tuple[float, float], old: tuple[float, float], alpha: float
) -> GateResult:
    """Compare two shares, each a part of a whole: the candidate's, and the champion's."""
    low, high = bounds(*new, alpha / 2)
    lower, upper = bounds(*old, alpha / 2)
    verdict = FAILED if low - upper > increase else PASSED if high - lower <= increase else MORE
    figures = f"{what}: {_share(*new, low, high)} against {_share(*old, lower, upper)}"
    return GateResult(gate, verdict, f"{figures}; at most {_percent(increase)} more allowed")


def p99(ratio: float, histogram: tuple[float, ...], candidate: Counts, champion: Counts, alpha: float) -> GateResult:
    """Check that the candidate's 99th percentile is at most `ratio` times the champion's, by the histogram's bounds.

    Failed: evidence shows that more than 1 % take longer than allowed, and more than of the champion's. Passed: at
    most 1 % did, and evidence shows that less than 2 % do.
    """
    if champion.timed < MIN_REQUESTS or len(champion.latency) != len(histogram):
        has = f"{_count(champion.timed)} of the {MIN_REQUESTS}"
        figures = f"p99: the champion has {has} requests that show its 99th percentile"
        return GateResult("p99Ratio", MORE, figures)
    common = next(i for i in range(len(histogram)) if champion.within(i) >= (1 - SLOW) * champion.timed)
    # Rounded up to a bound, since requests are counted at bounds only; the last bound if it is beyond all.
    allowed = histogram[common] * ratio
    limit = next((i for i, bound in enumerate(histogram) if bound >= allowed), len(histogram) - 1)
    part = alpha / 2 / len(histogram)
    slow, slower = candidate.timed - candidate.within(limit), champion.timed - champion.within(limit)
    low, high = bounds(slow, candidate.timed, part)
    lower, upper = bounds(slower, champion.timed, part)
    verdict = MORE
    if low > max(SLOW, upper):
        verdict = FAILED
    elif slow <= SLOW * candidate.timed and high <= SURELY_SLOW:
        verdict = PASSED
    return GateResult(
        "p99Ratio",
        verdict,
        f"p99: {_share(slow, candidate.timed, low, high)} took longer than {histogram[limit]:g} ms against "
        f"{_share(slower, champion.timed, lower, upper)}, whose p99 is within {histogram[common]:g} ms; "
        f"1 % allowed, and surely less than 2 %",
    )


def agreement(required: float, candidate: Counts, alpha: float) -> GateResult:
    """Check that the candidate answers at least the required share of copies as the champion does.

    Failed: evidence shows a smaller share. Passed: the share was reached, and evidence excludes one `SLACK` below it.
    """
    agreed = min(candidate.agreed, candidate.compared)  # counts from a status may be edited
    low, high = bounds(agreed, candidate.compared, alpha)
    verdict = MORE
    if high < required:
        verdict = FAILED
    elif agreed >= required * candidate.compared and low >= required - SLACK:
        verdict = PASSED
    figures = (
        f"agreement: {_count(agreed)} of {_count(candidate.compared)} copies were answered alike "
        f"({_number(low)} to {_percent(high)})"
    )
    if not candidate.compared:
        figures = "agreement: no copy was compared yet, which takes predictions by HTTP, of at most 64 rows"
    if candidate.unlike:
        figures += f", {_count(candidate.unlike)} with an error or with outputs of other names or types"
    return GateResult("agreement", verdict, f"{figures}; {_percent(required)} required")


def _with_missing(gate: Gate, evidence: Evidence) -> GateResult:
    """Return the result; if it lacks data, with an estimate of the requests that it needs."""
    result = gate(evidence.candidate, evidence.champion)
    if result.verdict != MORE:
        return result
    copies = result.gate == "agreement"
    has = evidence.candidate.compared if copies else evidence.candidate.requests
    needs = needed(gate, evidence, copies=copies)
    guess = f"about {_count(needs - has)} more are needed" if needs else "at these rates no number of them would pass"
    what = "copies compared" if copies else "requests of the candidate"
    count = f"{_count(has)} {what}"
    if not has:
        count = "no copy compared yet" if copies else "no requests yet"
        guess = f"about {_count(needs)} are needed" if needs else ""
    return GateResult(result.gate, result.verdict, "; ".join([result.message, ", ".join(filter(None, [count, guess]))]))


def needed(gate: Gate, evidence: Evidence, *, copies: bool = False) -> float:
    """Return the requests of the candidate with which the gate passes at the same rates; 0 if it never does.

    With `copies` return the copies instead.
    """
    # A quick request without an error is assumed for a side without requests.
    quick = Counts(1, 0, (1,) * len(evidence.bounds), 1, 1)
    new, old = (counts if counts.requests else quick for counts in (evidence.candidate, evidence.champion))
    new = new.with_copies_of(evidence.candidate if evidence.candidate.compared else quick)

    def passes(factor: float) -> bool:
        return gate(new.times(factor), old if evidence.ended else old.times(factor)).verdict == PASSED

    factor = 1.0
    while not passes(factor):
        factor *= 4
        if factor > MAX_FACTOR:
            return 0
    low = factor / 4
    while factor - low > 0.02 * factor:
        middle = (low + factor) / 2
        low, factor = (low, middle) if passes(middle) else (middle, factor)
    return (new.compared if copies else new.requests) * factor


def _count(number: float) -> str:
    return f"{number:,.0f}"


def _number(share: float) -> str:
    return f"{round(100 * share, 2):g}"


def _percent(share: float) -> str:
    return f"{_number(share)} %"


def _share(part: float, whole: float, low: float, high: float) -> str:
    return f"{_count(part)} of {_count(whole)} ({_number(low)} to {_percent(high)})"
