"""The gRPC server beside ADS: one port for the services that other packages bring, with health and reflection."""
