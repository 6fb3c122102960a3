"""Which request the running task works for, so that what it asks of others carries the same id."""

from contextvars import ContextVar
from typing import Final

REQUEST_ID: Final[ContextVar[str]] = ContextVar("request_id", default="")
"""Empty outside a request, as in the warm-up."""
