"""Formats of models, one module for each; `loading` finds a format by its name."""
