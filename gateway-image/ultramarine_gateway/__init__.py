"""The gateway's agent: tells the Envoy beside it where requests go, as the operator and Kubernetes have it."""
