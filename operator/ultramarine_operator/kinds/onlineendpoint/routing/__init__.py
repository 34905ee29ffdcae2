"""Routing of requests to the deployments of an endpoint."""
