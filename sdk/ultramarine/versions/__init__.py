"""Versions of models and datasets: their series, difference and metadata."""
