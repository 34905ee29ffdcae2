"""The Open Inference Protocol over gRPC; imported only if the server has a port for it."""
