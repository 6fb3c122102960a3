"""The queue of jobs on a message broker."""
