"""API keys: who may change traffic."""
