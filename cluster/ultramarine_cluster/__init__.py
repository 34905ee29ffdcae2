"""The embedded Kubernetes of Ultramarine: built from Go modules, started and taken away by this package."""
