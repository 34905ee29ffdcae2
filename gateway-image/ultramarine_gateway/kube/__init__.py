"""The Kubernetes API, from which the agent reads routes, addresses and Secrets."""
