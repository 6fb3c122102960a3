"""Code generated from protos/. Never edited."""
