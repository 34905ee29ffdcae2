"""Requests to endpoints: bodies made from signatures, and the way to the endpoint's pods."""
