"""REST-JSON discovery for Envoys that poll: reads the request, and leaves the rest to whoever serves configuration.

Envoy cannot send an API key here, so these paths want none. They are there only where a setting asks for them.
"""

import dataclasses
import ipaddress
import json
from typing import Final

from fastapi import APIRouter, Request, Response

from controlplane.errors import InvalidInputError, UnauthorizedError
from controlplane.ports import DiscoveryPolls

NOT_MODIFIED: Final = 304


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """What answers polls, and whether only those of this machine."""

    polls: DiscoveryPolls
    loopback_only: bool = True


def make_router(discovery: Discovery) -> APIRouter:
    """Return the paths that Envoy polls."""
    # The protocol is Envoy's own; who writes a client of ours has no use for it.
    router = APIRouter(tags=["discovery"], include_in_schema=False)

    @router.post(
        "/v3/discovery:{resource}",
        responses={NOT_MODIFIED: {"description": "The client has what it should have, or must wait for more."}},
    )
    async def poll(request: Request, resource: str) -> Response:
        """Answer an Envoy's DiscoveryRequest (proto JSON) with a DiscoveryResponse; 304 when there is nothing new."""
        if discovery.loopback_only and not _is_local(request):
            raise UnauthorizedError(
                "discovery over REST is for Envoys on this machine; set HUESHIFT_REST_DISCOVERY=anyone to change that"
            )
        answer = discovery.polls.poll(resource, _decoded(await request.body()))
        if answer is None:
            return Response(status_code=NOT_MODIFIED)
        return Response(answer, media_type="application/json")

    return router


def _is_local(request: Request) -> bool:
    try:
        return request.client is not None and ipaddress.ip_address(request.client.host).is_loopback
    except ValueError:
        return False


def _decoded(body: bytes) -> object:
    try:
        document: object = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise InvalidInputError("body", "is not JSON", "send a DiscoveryRequest as JSON") from exc
    return document
