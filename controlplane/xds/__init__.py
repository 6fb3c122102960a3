"""Envoy's protocol: resources, snapshots, streams and what the fleet has acknowledged."""
