"""Manifests in files: reading with places, validation, schemas, explanations and plans, all without a cluster."""
