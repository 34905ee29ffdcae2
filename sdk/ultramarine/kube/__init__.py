"""The way to a cluster: its configuration, its API, port forwarding, and the platform in a namespace."""
