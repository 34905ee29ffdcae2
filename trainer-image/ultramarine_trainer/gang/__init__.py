"""Several nodes of one job: they start their commands together, and again together."""
