"""One attempt of a job in a pod: the command, its signals, its verdict."""
