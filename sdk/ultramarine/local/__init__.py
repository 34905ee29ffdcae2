"""Runs and servers on this machine, without a cluster: the trainer's and the server's own code."""
