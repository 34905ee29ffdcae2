"""Progress of a command: metrics, reports to the operator, and the log in the storage."""
