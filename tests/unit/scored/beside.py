"""Module beside a scoring script."""

WORD = "imported"
