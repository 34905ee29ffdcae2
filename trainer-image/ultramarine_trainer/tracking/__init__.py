"""MLflow: the run that records a job, and models copied from its registry."""
