"""The loops between SQL and the world: observe, decide, save; and project committed rows into what Envoy gets."""
