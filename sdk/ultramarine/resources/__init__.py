"""The custom resources: spec and status of each kind as pydantic models, the source of CRDs and reference."""
