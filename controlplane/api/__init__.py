"""The REST API: the one door for the CLI, for CI and for people."""
