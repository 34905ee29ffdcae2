"""The xDS protocol, by which Envoy gets its configuration."""
