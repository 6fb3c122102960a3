"""Share links: read-only, for one service, until they expire or are revoked. Operators of a service make them."""

from typing import Annotated

import structlog
from fastapi import APIRouter, Path, Query, Request, status

from controlplane.api.access import Reader, UseParts, Writer
from controlplane.api.access_schemas import CreatedShareLinkView, ShareDocument, ShareLinkPage, ShareLinkView
from controlplane.api.identity import own_origin
from controlplane.api.paging import Cursor, cut, read_number, write_cursor
from controlplane.api.permissions import Rule, Scope, refuse
from controlplane.api.routing import ApiRoute, answers_secret
from controlplane.auth.roles import Principal, Role
from controlplane.auth.shares import Share
from controlplane.errors import HiddenError, NotFoundError
from controlplane.ports import RolloutId

log = structlog.get_logger(__name__)

router = APIRouter(prefix="/v1/shares", tags=["access"], route_class=ApiRoute)

_SHARES = Rule(Role.OPERATOR, Scope.NAME)

Which = Annotated[str, Path(description="The link's id.", max_length=40)]


@router.get("")
async def list_shares(
    parts: UseParts, reader: Reader, limit: Annotated[int, Query(ge=1, le=200)] = 100, cursor: Cursor = None
) -> ShareLinkPage:
    """List the links to services of which one is an operator, live and ended, newest first."""
    services = None
    if not reader.may(Role.OPERATOR):
        services = [grant.service for grant in reader.grants if grant.covers(Role.OPERATOR, grant.service)]
    before = read_number(cursor, "shares")
    found = await parts.auth.shares.store.page_shares(services=services, before=before, limit=limit + 1)
    page, last = cut(found, limit)
    return ShareLinkPage(
        items=[ShareLinkView(**_fields(share)) for _number, share in page],
        next=None if last is None else write_cursor("shares", str(last[0])),
    )


@router.post("", status_code=status.HTTP_201_CREATED)
@answers_secret
async def create_share(
    document: ShareDocument, request: Request, parts: UseParts, caller: Writer, reader: Reader
) -> CreatedShareLinkView:
    """Make a link. The answer is the only place where it is ever shown."""
    refuse(reader, _SHARES, service=document.service)
    await parts.store.load_service(document.service)
    if document.rollout is not None:
        rollout = await parts.store.load(RolloutId(document.rollout))
        if rollout.service != document.service:
            raise NotFoundError("rollout", document.rollout, None)
    token, share = await parts.auth.shares.create(
        document.service,
        document.rollout or "",
        expires_in=document.expires_in,
        by=caller.name,
        why=document.why or caller.why,
    )
    log.info("share.created", share=share.id, service=share.service, by=caller.name)
    base = parts.auth.public_url or own_origin(request, parts.auth)
    return CreatedShareLinkView(**_fields(share), url=f"{base}/share/{token}")


@router.delete("/{share}", status_code=status.HTTP_204_NO_CONTENT)
async def revoke_share(share: Which, parts: UseParts, caller: Writer, reader: Reader) -> None:
    """End a link at once, with the sessions that it opened."""
    found = await parts.auth.shares.store.find_share(share)
    _check_own(reader, found, share)
    await parts.auth.shares.revoke(share, by=caller.name, why=caller.why)
    log.info("share.revoked", share=share, by=caller.name)


def _check_own(reader: Principal, share: Share | None, name: str) -> None:
    if share is None or not reader.sees(share.service):
        raise HiddenError("share", name, service="") if share else NotFoundError("share", name, None)
    refuse(reader, _SHARES, service=share.service)


def _fields(share: Share) -> dict[str, object]:
    return {
        "id": share.id,
        "service": share.service,
        "rollout": share.rollout or None,
        "by": share.by,
        "why": share.why,
        "created_at": share.created_at,
        "expires_at": share.expires_at,
        "revoked_at": share.revoked_at,
    }
