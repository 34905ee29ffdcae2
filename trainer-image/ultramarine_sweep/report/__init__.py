"""Results of a finished sweep: tables, pictures and the report."""
