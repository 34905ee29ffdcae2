"""The operator: reconciles the custom resources of ultramarine.dev."""
