"""Decisions of a sweep: parameters to try next, and trials to stop."""

# Losses times this keep their relative distances exactly, and a few times the widest distance is still a float.
SMALLER = 1 / 16
