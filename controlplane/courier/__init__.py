"""Brings messages to others' programs and people at least once: what jobs and rollouts share."""
