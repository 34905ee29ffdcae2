"""Endpoints from this machine: deployments, keys, bodies made from signatures, and the way to the pods."""
