"""AutoML's programs: prepare a table, try one candidate, and finish with a model and its report."""
