"""Jobs for whoever runs them: attempts, another chance for dead ones, figures, queues, drains."""

import datetime as dt
from typing import Annotated

import structlog
from fastapi import APIRouter, Query, status

from controlplane.api import units
from controlplane.api.access import Owner, Reader, UseParts, Writer
from controlplane.api.job_figures import (
    AttemptView,
    DrainDocument,
    DrainedView,
    DrainView,
    FiguresView,
    QueuesView,
    attempt_view,
    drain_view,
    figures_view,
    queues_view,
)
from controlplane.api.job_routes import Which
from controlplane.api.job_schemas import JobView, job_view
from controlplane.api.routing import ApiRoute
from controlplane.errors import InvalidInputError, NotFoundError
from controlplane.jobs.figures import MAX_SINCE
from controlplane.jobs.model import JobId

log = structlog.get_logger(__name__)

router = APIRouter(prefix="/v1", tags=["jobs"], route_class=ApiRoute)


@router.get("/jobs/{job}/attempts")
async def list_attempts(job: Which, parts: UseParts, owner: Owner) -> list[AttemptView]:
    """List the attempts of one of your jobs that have ended, in their order."""
    found = await parts.desk.store.load_job(JobId(job), owner=owner)
    return [attempt_view(each) for each in await parts.overseer.store.load_attempts(found.id)]


@router.post("/jobs/{job}/retry", status_code=status.HTTP_202_ACCEPTED)
async def retry_job(job: Which, parts: UseParts, caller: Writer) -> JobView:
    """Let a job that is dead or cancelled wait again, as if it had never failed; one that waits or runs stays so."""
    return job_view(await parts.overseer.retry(JobId(job), owner=caller.name))


@router.get("/job-figures")
async def show_figures(
    parts: UseParts,
    _: Reader,
    since: Annotated[str, Query(description="How far back, like 1h; at most 31d.", max_length=40)] = "1h",
    kind: Annotated[str | None, Query(description="Only this kind.", max_length=40)] = None,
) -> FiguresView:
    """Show how jobs did: counts, success shares, percentiles of wait and run, per kind and per version."""
    until = parts.clock.now()
    begin = until - _read_since(since)
    if kind is not None:
        known = [each.name for each in await parts.desk.store.list_kinds()]
        if kind not in known:
            raise NotFoundError("kind", kind, tuple(known))
    return figures_view(await parts.overseer.figures(kind, since=begin, until=until), since=begin, until=until)


@router.get("/job-queues")
async def show_queues(parts: UseParts, _: Reader) -> QueuesView:
    """Show all queues, with the jobs of all owners: backlog, oldest age, running, drains and dead letters."""
    return queues_view(await parts.overseer.report(), now=parts.clock.now())


@router.get("/job-drains")
async def list_drains(parts: UseParts, _: Reader) -> list[DrainView]:
    """List drains: those that hold first, then who began and ended the others, newest first."""
    return [drain_view(each) for each in await parts.overseer.store.load_drains()]


@router.put("/job-drains")
async def set_drain(document: DrainDocument, parts: UseParts, caller: Writer) -> DrainedView:
    """Stop jobs from being started, of one kind or of all, or let them be started again. What runs goes on."""
    store = parts.overseer.store
    change = store.begin_drain if document.on else store.end_drain
    changed = await change(document.kind, by=caller.name, why=document.why or caller.why, now=parts.clock.now())
    if changed:
        what = "job_drain.begun" if document.on else "job_drain.ended"
        log.info(what, kind=document.kind or "all", by=caller.name, why=document.why)
    which = document.kind or "any kind"
    does = f"no jobs of {which} are started now" if document.on else f"jobs of {which} are started"
    words = does if changed else f"{does} already"
    return DrainedView(kind=document.kind, on=document.on, changed=changed, words=words)


def _read_since(text: str) -> dt.timedelta:
    try:
        span = units.parse_span(text)
    except units.UnitError as exc:
        raise InvalidInputError("since", exc.problem, exc.fix) from exc
    if not dt.timedelta(0) < span <= MAX_SINCE:
        raise InvalidInputError("since", f"{text} is out of range", f"use more than nothing, at most {MAX_SINCE.days}d")
    return span
