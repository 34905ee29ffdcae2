"""Envoy's configuration, made from the routes of endpoints."""
