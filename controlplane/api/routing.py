"""What all routes of the API have in common, whatever they do: repetitions, tags, and secrets that are kept nowhere."""

from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from fastapi import Request, Response
from fastapi.routing import APIRoute

from controlplane.api.repeats import Handler, once
from controlplane.api.tags import unless_known

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])

_MARK: Final = "answers_a_secret"


def answers_secret(endpoint: Endpoint) -> Endpoint:
    """Mark what answers a new secret: the answer is not kept to be given again, here or on its way.

    Secrets are stored as digests, or not to be read again; an idempotency key must not be the way around that.
    """
    setattr(endpoint, _MARK, True)
    return endpoint


class ApiRoute(APIRoute):
    """A route whose changes are made once per idempotency key, and whose reads are not sent to who knows them."""

    @property
    def is_repeatable(self) -> bool:
        """Whether a copy of a request with an idempotency key is answered as the first was."""
        return bool({"POST", "PUT"} & (self.methods or set())) and not self._answers_secret

    @property
    def _answers_secret(self) -> bool:
        return hasattr(self.endpoint, _MARK)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap the route's handler."""
        handler = super().get_route_handler()
        if self._answers_secret:
            return _unstored(handler)
        if self.is_repeatable:
            return once(handler)
        return unless_known(handler) if "GET" in (self.methods or set()) else handler


def _unstored(handler: Handler) -> Handler:
    async def answer(request: Request) -> Response:
        response = await handler(request)
        response.headers["Cache-Control"] = "no-store"
        return response

    return answer
