"""The rules of a rollout, pure: its plan, its states, its judge. No I/O, no clock."""
