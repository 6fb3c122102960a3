"""What is agreed with owners of jobs: a row each. Whatever is public, only who has a key reads it."""

from typing import Annotated

import structlog
from fastapi import APIRouter, Path, Query, Response, status

from controlplane.api.access import Reader, UseParts, Writer, change_of
from controlplane.api.owner_schemas import (
    OwnerAppliedView,
    OwnerDocument,
    OwnerView,
    owner_document,
    owner_from,
    owner_view,
)
from controlplane.api.paging import Cursor, Page, cut, read_cursor, write_cursor
from controlplane.api.routing import ApiRoute
from controlplane.api.tags import Conditions, digest_of, set_state
from controlplane.errors import HiddenError, InvalidInputError, NotFoundError
from controlplane.jobs.expected import Expected

log = structlog.get_logger(__name__)

router = APIRouter(prefix="/v1/job-owners", tags=["jobs"], route_class=ApiRoute)

MAX_NAMED = 20
"""Owners that are named when another one is asked for."""

Which = Annotated[str, Path(description="The name of the API key.", max_length=63)]


class OwnerPage(Page[OwnerDocument]):
    """Agreements, by name."""


@router.get("")
async def list_owners(
    parts: UseParts, _: Reader, limit: Annotated[int, Query(ge=1, le=200)] = 100, cursor: Cursor = None
) -> OwnerPage:
    """List agreements, by name; for owners without one the settings hold."""
    found = await parts.desk.store.list_owners(after=read_cursor(cursor, "owners") or "", limit=limit + 1)
    page, last = cut(found, limit)
    return OwnerPage(
        items=[owner_document(owner) for owner in page],
        next=None if last is None else write_cursor("owners", last.name),
    )


@router.get("/{owner}")
async def show_owner(owner: Which, response: Response, parts: UseParts, caller: Reader) -> OwnerView:
    """Show what holds for an owner, and what is used of it; yourself, or one with whom something is agreed.

    Others than oneself takes the role viewer on all services.
    """
    if owner != caller.name and not caller.sees_all:
        raise HiddenError("job owner", owner, service="")
    agreed = await parts.desk.store.find_owner(owner)
    if agreed is None and owner != caller.name:
        known = tuple(each.name for each in await parts.desk.store.list_owners(limit=MAX_NAMED))
        raise NotFoundError("job owner", owner, known)
    if agreed is not None:
        set_state(response, digest_of(owner_document(agreed)))
    quotas, usage = await parts.desk.look_up(owner)
    return owner_view(owner, agreed, quotas, usage)


@router.put("/{owner}")
async def apply_owner(
    owner: Which,
    document: OwnerDocument,
    response: Response,
    parts: UseParts,
    caller: Writer,
    conditions: Conditions,
) -> OwnerAppliedView:
    """Make the document what is agreed with this owner, for jobs that are submitted, or end, from now on."""
    meant = owner_from(document)
    if meant.name != owner:
        raise InvalidInputError("owner", f"{meant.name!r} is not the {owner!r} of the path", f"write owner: {owner}")
    store, expected = parts.desk.store, None
    if not conditions.are_none:
        agreed = await store.find_owner(owner)
        conditions.check(
            None if agreed is None else digest_of(owner_document(agreed)), what=f"agreement with {owner!r}"
        )
        expected = Expected(agreed)
    changed = await store.apply_owner(meant, change_of(parts, caller), expected=expected)
    set_state(response, digest_of(owner_document(meant)))
    if changed:
        log.info("job_owner.applied", owner=owner, by=caller.name)
    return OwnerAppliedView(owner=owner, changed=changed, words=f"{owner} is {'applied' if changed else 'unchanged'}")


@router.delete("/{owner}", status_code=status.HTTP_204_NO_CONTENT)
async def delete_owner(owner: Which, parts: UseParts, caller: Writer) -> None:
    """Have the settings hold for this owner again."""
    await parts.desk.store.delete_owner(owner, change_of(parts, caller))
    log.info("job_owner.deleted", owner=owner, by=caller.name)
