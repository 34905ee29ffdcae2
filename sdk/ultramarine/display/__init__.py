"""Objects as people read them: diagnosis of a state, charts in the terminal, pages in a notebook."""
