"""Kinds of tasks: a row each, so that a new one needs no code."""

from typing import Annotated

import structlog
from fastapi import APIRouter, Path, Response

from controlplane.api.access import Reader, UseParts, Writer, change_of
from controlplane.api.job_schemas import KindAppliedView, KindDocument, kind_document, kind_from
from controlplane.api.routing import ApiRoute
from controlplane.api.tags import Conditions, digest_of, set_state
from controlplane.errors import InvalidInputError, NotFoundError
from controlplane.jobs.expected import Expected

log = structlog.get_logger(__name__)

router = APIRouter(prefix="/v1/job-kinds", tags=["jobs"], route_class=ApiRoute)


Name = Annotated[str, Path(description="Its name.", max_length=40)]


@router.get("")
async def list_kinds(parts: UseParts, _: Reader) -> list[KindDocument]:
    """List all kinds of tasks, by name."""
    return [kind_document(kind) for kind in await parts.desk.store.list_kinds()]


@router.get("/{kind}")
async def show_kind(kind: Name, response: Response, parts: UseParts, _: Reader) -> KindDocument:
    """Show one kind of tasks."""
    kinds = {each.name: each for each in await parts.desk.store.list_kinds()}
    if kind not in kinds:
        raise NotFoundError("kind", kind, tuple(kinds))
    document = kind_document(kinds[kind])
    set_state(response, digest_of(document))
    return document


@router.put("/{kind}")
async def apply_kind(
    kind: Name,
    document: KindDocument,
    response: Response,
    parts: UseParts,
    caller: Writer,
    conditions: Conditions,
) -> KindAppliedView:
    """Make the document what its name means; jobs that wait follow it."""
    meant = kind_from(document)
    if meant.name != kind:
        raise InvalidInputError("kind", f"{meant.name!r} is not the {kind!r} of the path", f"write kind: {kind}")
    store, expected = parts.desk.store, None
    if not conditions.are_none:
        found = next((each for each in await store.list_kinds() if each.name == kind), None)
        conditions.check(None if found is None else digest_of(kind_document(found)), what=f"kind {kind!r}")
        expected = Expected(found)
    changed = await store.apply_kind(meant, change_of(parts, caller), expected=expected)
    set_state(response, digest_of(kind_document(meant)))
    if changed:
        log.info("job_kind.applied", kind=kind, by=caller.name)
    return KindAppliedView(kind=kind, changed=changed, words=f"{kind} is {'applied' if changed else 'unchanged'}")
