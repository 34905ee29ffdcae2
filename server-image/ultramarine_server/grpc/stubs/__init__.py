"""The messages of the gRPC protocols, generated from the .proto files beside them by `make generate`."""
