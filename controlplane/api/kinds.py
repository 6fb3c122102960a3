"""Kinds of tasks: a row each, so that a new one needs no code."""

from typing import Annotated

import structlog
from fastapi import APIRouter, Path

from controlplane.api.access import Reader, UseParts, Writer
from controlplane.api.job_schemas import KindAppliedView, KindDocument, kind_document, kind_from
from controlplane.api.repeats import RepeatableRoute
from controlplane.errors import InvalidInputError

log = structlog.get_logger(__name__)

router = APIRouter(prefix="/v1/job-kinds", tags=["jobs"], route_class=RepeatableRoute)


@router.get("")
async def list_kinds(parts: UseParts, _: Reader) -> list[KindDocument]:
    """List all kinds of tasks, by name."""
    return [kind_document(kind) for kind in await parts.desk.store.list_kinds()]


@router.put("/{kind}")
async def apply_kind(
    kind: Annotated[str, Path(description="Its name.", max_length=40)],
    document: KindDocument,
    parts: UseParts,
    caller: Writer,
) -> KindAppliedView:
    """Make the document what its name means; jobs that wait follow it."""
    meant = kind_from(document)
    if meant.name != kind:
        raise InvalidInputError("kind", f"{meant.name!r} is not the {kind!r} of the path", f"write kind: {kind}")
    changed = await parts.desk.store.apply_kind(meant, now=parts.clock.now())
    if changed:
        log.info("job_kind.applied", kind=kind, by=caller.name)
    return KindAppliedView(kind=kind, changed=changed, words=f"{kind} is {'applied' if changed else 'unchanged'}")
