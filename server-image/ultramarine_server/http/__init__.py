"""HTTP/1.1: connections, messages, the paths of the server, and the documents that only HTTP has."""
