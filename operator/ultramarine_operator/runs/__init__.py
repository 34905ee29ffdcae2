"""One lifecycle for everything that runs to its end."""
