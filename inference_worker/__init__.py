"""The worker: serves image models over HTTP; it shares wire formats with the control plane, and no code."""

VERSION = "0.1.0"
"""The package's; a test holds it to pyproject.toml, since the worker's image has no installed package to ask."""
