"""Trials of a sweep: in a worker of its pool, or as a TrainingJob."""
