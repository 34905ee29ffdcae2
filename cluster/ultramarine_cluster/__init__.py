"""The embedded Kubernetes of Ultramarine: built from Go modules, started and removed by this package."""
