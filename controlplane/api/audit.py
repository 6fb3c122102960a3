"""The audit: who changed what and why, and who tried to without being allowed."""

import datetime as dt
from typing import Annotated, Final

from fastapi import APIRouter, Query

from controlplane.api.access import Reader, UseParts
from controlplane.api.access_schemas import AuditPage, audit_view
from controlplane.api.paging import Cursor, cut, read_cursor, write_cursor
from controlplane.api.routing import ApiRoute
from controlplane.auth.ports import AuditEntry, AuditFilter, Outcome
from controlplane.auth.roles import Role
from controlplane.errors import InvalidInputError

router = APIRouter(prefix="/v1/audit", tags=["access"], route_class=ApiRoute)

_LIST: Final = "audit"
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND: Final = dt.timedelta(microseconds=1)


@router.get("")
async def list_audit(
    parts: UseParts,
    reader: Reader,
    by: Annotated[str | None, Query(description="Only what this key or person did.", max_length=200)] = None,
    service: Annotated[str | None, Query(description="Only what is about this service.", max_length=63)] = None,
    outcome: Annotated[Outcome | None, Query(description="Only done, refused or denied.")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Cursor = None,
) -> AuditPage:
    """List what people did, newest first: commands and declarations of the services that one may see.

    Whoever is admin of all services also sees keys and their grants, and what was denied to whom.
    """
    wanted = AuditFilter(
        by=by,
        service=service,
        outcome=outcome,
        services=None if reader.sees_all else [grant.service for grant in reader.grants],
        whole=reader.may(Role.ADMIN),
    )
    found = await parts.auth.audit.page_audit(wanted, before=_read_place(cursor), limit=limit + 1)
    page, last = cut(found, limit)
    return AuditPage(items=[audit_view(entry) for entry in page], next=None if last is None else _write_place(last))


def _write_place(entry: AuditEntry) -> str:
    return write_cursor(_LIST, f"{(entry.at - _EPOCH) // _MICROSECOND} {entry.place}")


def _read_place(cursor: str | None) -> tuple[dt.datetime, str] | None:
    text = read_cursor(cursor, _LIST)
    if text is None:
        return None
    moment, _, place = text.partition(" ")
    try:
        at = _EPOCH + int(moment) * _MICROSECOND
        int(place[1:])
    except (ValueError, OverflowError) as exc:
        raise InvalidInputError("cursor", "is none of this list's", "send `next` of the page before") from exc
    return at, place
