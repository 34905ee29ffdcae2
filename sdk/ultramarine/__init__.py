"""Ultramarine: train, register and serve models as plain Kubernetes resources."""
