"""Ultramarine: train, register and serve models as plain Kubernetes resources."""

__version__ = "0.1.0"
