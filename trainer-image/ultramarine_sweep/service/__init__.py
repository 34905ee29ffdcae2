"""Life of a coordinator: its server, its workers, and its summary for the operator."""
