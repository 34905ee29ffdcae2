"""Data collection: captures of requests, and the sidecar that stores them as Parquet."""
