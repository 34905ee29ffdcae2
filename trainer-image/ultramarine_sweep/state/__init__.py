"""State of a sweep: its journal, its trials, and its end."""
