"""Pods that train, for the kinds whose pods run a user's command, and what trials share with their Sweep."""
