"""The `hueshift` command."""
