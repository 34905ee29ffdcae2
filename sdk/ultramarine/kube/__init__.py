"""The way to a cluster: its configuration, its API, and port forwarding inside this process."""
