"""Objects for readers: diagnosis of a state, charts in the terminal, pages in a notebook."""
