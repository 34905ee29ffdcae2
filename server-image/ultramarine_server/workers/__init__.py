"""Worker processes, which run a user's code apart from the server: a hang, a crash or a leak ends only them."""
