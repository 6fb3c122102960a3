"""Tells people and programs what becomes of rollouts: targets, messages, one-time links."""
