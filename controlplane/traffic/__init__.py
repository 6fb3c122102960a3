"""What should be served, in words no proxy owns: services, versions, routes and the split between versions."""
