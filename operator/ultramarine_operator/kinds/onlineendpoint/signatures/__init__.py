"""Comparison of the inputs that versions take."""
