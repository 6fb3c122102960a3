"""What all routes of the API have in common, whatever they do: repetitions and tags."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from controlplane.api.repeats import once
from controlplane.api.tags import unless_known


class ApiRoute(APIRoute):
    """A route whose changes are made once per idempotency key, and whose reads are not sent to who knows them."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap the route's handler."""
        handler = super().get_route_handler()
        methods = self.methods or set()
        if methods & {"POST", "PUT"}:
            return once(handler)
        return unless_known(handler) if "GET" in methods else handler
