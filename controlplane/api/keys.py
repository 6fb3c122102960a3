"""API keys and what they may do, for admins of all services. The last key that may do everything is not lost here."""

from typing import Annotated

import structlog
from fastapi import APIRouter, Path, Query, status

from controlplane.api.access import Reader, UseParts, Writer
from controlplane.api.access_schemas import (
    CreatedKeyView,
    GrantsDocument,
    GrantsView,
    KeyDocument,
    KeyPage,
    grant_views,
    grants_from,
    key_view,
)
from controlplane.api.paging import Cursor, cut, read_number, write_cursor
from controlplane.api.routing import ApiRoute, answers_secret

log = structlog.get_logger(__name__)

router = APIRouter(prefix="/v1/keys", tags=["access"], route_class=ApiRoute)

Which = Annotated[str, Path(description="The key's name.", max_length=63)]


@router.get("")
async def list_keys(
    parts: UseParts, _: Reader, limit: Annotated[int, Query(ge=1, le=200)] = 100, cursor: Cursor = None
) -> KeyPage:
    """List keys, live and revoked, newest first, by name and first characters."""
    before = read_number(cursor, "keys")
    page, last = cut(await parts.auth.keys.store.page_keys(before=before, limit=limit + 1), limit)
    return KeyPage(
        items=[key_view(key) for _number, key in page],
        next=None if last is None else write_cursor("keys", str(last[0])),
    )


@router.post("", status_code=status.HTTP_201_CREATED)
@answers_secret
async def create_key(document: KeyDocument, parts: UseParts, caller: Writer) -> CreatedKeyView:
    """Make a key. The answer is the only place where it is ever shown."""
    keys, grants = parts.auth.keys, grants_from(document.grants)
    key = await keys.create(document.name, grants, by=caller.name, why=document.why or caller.why)
    log.info("key.created", name=document.name, by=caller.name)
    return CreatedKeyView(**key_view(await keys.find(document.name)).model_dump(), key=key)


@router.delete("/{key}", status_code=status.HTTP_204_NO_CONTENT)
async def revoke_key(key: Which, parts: UseParts, caller: Writer) -> None:
    """End a key at once, with the sessions that it opened."""
    await parts.auth.keys.revoke(key, by=caller.name, why=caller.why, spare_last_admin=True)
    log.info("key.revoked", name=key, by=caller.name)


@router.put("/{key}/grants")
async def set_grants(key: Which, document: GrantsDocument, parts: UseParts, caller: Writer) -> GrantsView:
    """Have a key have these grants and no others, from its next request on."""
    found = await parts.auth.keys.set_grants(
        key,
        grants_from(document.grants),
        by=caller.name,
        why=document.why or caller.why,
        spare_last_admin=True,
    )
    log.info("key.granted", name=key, grants=[str(each) for each in found], by=caller.name)
    return GrantsView(name=key, grants=grant_views(found))
