"""The command `ultramarine`: a file for each group of commands, which imports what is heavy when it runs."""
