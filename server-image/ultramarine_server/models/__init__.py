"""Models that predict: signatures, tables, estimators, boosted trees, and checks of untrusted content."""
