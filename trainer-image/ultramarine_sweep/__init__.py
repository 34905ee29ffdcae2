"""The coordinator of a sweep: what is tried next, who tries it, when one is given up, and the journal of all that."""
