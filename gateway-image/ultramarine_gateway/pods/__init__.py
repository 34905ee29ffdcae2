"""Questions to the pods that serve models."""
