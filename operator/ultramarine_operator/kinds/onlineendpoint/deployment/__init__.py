"""Deployments of an endpoint: their pods, number and health."""
