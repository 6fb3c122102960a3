"""Jobs' way to the workers: through Envoy, as any live request."""
