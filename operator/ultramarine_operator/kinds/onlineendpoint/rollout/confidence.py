"""Bounds of a share that hold at any time, however often they are asked for.

They come from a confidence sequence for a share of yes among yes and no. Mixing all alternatives by Beta(1/2, 1/2)
gives M(p) = B(k + 1/2, n - k + 1/2) / B(1/2, 1/2) / (p^k (1 - p)^(n - k)). Under p it is a martingale that starts at 1.
By Ville's inequality it reaches 1/alpha with a probability of at most alpha. So {p: M(p) < 1/alpha} has the true share
at all times at once with probability 1 - alpha. See Howard and others, Time-uniform, nonparametric, nonasymptotic
confidence sequences, Annals of Statistics 49 (2021), section 3.
"""

from __future__ import annotations

from math import lgamma, log, pi

HALVINGS = 32  # of an interval within 0..1, finer than any count needs


def log_mixture(yes: float, of: float, share: float) -> float:
    """Return the logarithm of M(share); `share` lies between 0 and 1, and counts may have fractions."""
    no = of - yes
    mixed = lgamma(yes + 0.5) + lgamma(no + 0.5) - lgamma(of + 1) - log(pi)
    return mixed - yes * log(share) - no * log(1 - share)


def bounds(yes: float, of: float, alpha: float) -> tuple[float, float]:
    """Return the smallest and the largest share that `yes` in `of` leaves possible; 0 and 1 without counts."""
    if of <= 0:
        return 0.0, 1.0
    limit, middle = log(1 / alpha), yes / of
    low = 0.0 if yes <= 0 else _edge(yes, of, limit, outside=0.0, inside=middle)
    high = 1.0 if yes >= of else _edge(yes, of, limit, outside=1.0, inside=middle)
    return low, high


def _edge(yes: float, of: float, limit: float, outside: float, inside: float) -> float:
    """Return the share at which M reaches its limit; M has its minimum at the counted share and rises to both sides."""
    for _ in range(HALVINGS):
        middle = (outside + inside) / 2
        if 0 < middle < 1 and log_mixture(yes, of, middle) < limit:
            inside = middle
        else:
            outside = middle
    return outside
