"""Services: apply a declaration, read it back, set the split by hand, follow the history."""

import collections
import datetime as dt
from collections.abc import Collection
from typing import Annotated

import structlog
from fastapi import APIRouter, Path, Query, Request, Response

from controlplane.api import units
from controlplane.api.access import Parts, Reader, UseParts, Writer
from controlplane.api.answers import AppliedView, EventsView, EventView, ServiceView, SummaryView
from controlplane.api.documents import spec_from, split_from
from controlplane.api.guards import refuse_closed_gates, refuse_dead_version
from controlplane.api.paging import MAX_NUMBER_DIGITS, Cursor, Page, cut, read_cursor, read_number, write_cursor
from controlplane.api.requests import SplitRequest, one_line
from controlplane.api.routing import ApiRoute
from controlplane.api.schemas import ServiceDocument
from controlplane.api.tags import Conditions, set_state
from controlplane.api.views import event_view, service_view, split_now, summary_view
from controlplane.controller.line import frozen_words
from controlplane.errors import InvalidInputError, NotFoundError, UnavailableError
from controlplane.rollout.slo import quality_slo
from controlplane.traffic.model import ServiceSpec

log = structlog.get_logger(__name__)

router = APIRouter(prefix="/v1/services", tags=["services"], route_class=ApiRoute)

MAX_SERVICES = 200
MAX_EVENTS = 1000
MAX_NUMBER = 10**MAX_NUMBER_DIGITS
MAX_WAIT = dt.timedelta(seconds=60)
MAX_WATCHERS = 100
POLL = dt.timedelta(milliseconds=500)

Name = Annotated[str, Path(description="The service's name.", max_length=63)]


class ServicePage(Page[SummaryView]):
    """Services, by name."""


class HistoryPage(Page[EventView]):
    """What happened, newest first."""


@router.get("")
async def list_services(
    parts: UseParts, reader: Reader, limit: Annotated[int, Query(ge=1, le=MAX_SERVICES)] = 100, cursor: Cursor = None
) -> ServicePage:
    """List the services that one may see, by name, with what is served and the newest rollout of each."""
    store = parts.store
    only = None if reader.sees_all else [grant.service for grant in reader.grants]
    records = await store.list_services(after=read_cursor(cursor, "services") or "", limit=limit + 1, only=only)
    page, last = cut(records, limit)
    latest = await store.load_latest_of([record.name for record in page])
    nodes, health = await store.load_nodes(), await store.load_health()
    now = parts.clock.now()
    agenda = await store.load_agenda(since=now)
    lined_up = collections.Counter(each.service for each in agenda.waiting)
    return ServicePage(
        items=[
            summary_view(record, latest.get(record.name), nodes, health).model_copy(
                update={
                    "waiting": lined_up[record.name],
                    "frozen": frozen_words(agenda.freezes, record.name, now=now),
                }
            )
            for record in page
        ],
        next=None if last is None else write_cursor("services", last.name),
    )


@router.get("/{name}")
async def show_service(name: Name, response: Response, parts: UseParts, _: Reader) -> ServiceView:
    """Show a service's newest declaration and what is served of it. Its ETag begins with the revision's number."""
    record = await parts.store.load_service(name)
    set_state(response, str(record.newest.number))
    return service_view(
        record,
        await parts.store.load_latest(name),
        await parts.store.load_nodes(),
        await parts.store.load_health(),
    )


@router.put("/{name}")
async def apply_service(
    name: Name,
    document: ServiceDocument,
    response: Response,
    parts: UseParts,
    caller: Writer,
    conditions: Conditions,
    why: Annotated[str, Query(description="The reason, for the audit.")] = "",
) -> AppliedView:
    """Make the document the service's newest revision; the same one again changes nothing.

    With ``If-Match: "7"`` it is refused unless revision 7 is the newest still, with ``If-None-Match: *`` if there is
    any.
    """
    spec = spec_from(document)
    if spec.name != name:
        raise InvalidInputError("service", f"{spec.name!r} is not the {name!r} of the path", f"write service: {name}")
    reason = one_line("why", why) or caller.why
    await refuse_unfit(parts, spec)
    expected = await expected_revision(parts, name, conditions)
    now = parts.clock.now()
    revision, changed = await parts.store.apply(spec, by=caller.name, why=reason, now=now, expected=expected)
    set_state(response, str(revision.number))
    if changed:
        log.info("service.applied", service=name, revision=revision.number, by=caller.name)
    words = f"{name} is now at revision {revision.number}" if changed else f"{name} is unchanged"
    return AppliedView(service=name, revision=revision.number, changed=changed, words=words)


async def refuse_unfit(parts: Parts, *specs: ServiceSpec) -> None:
    """Refuse what this control plane could not serve, or its Envoys would not take.

    Raises:
        InvalidInputError: So it is.
    """
    for spec in specs:
        _check_pictures(spec, compares=parts.compares_pictures)
        if parts.certificates is not None:
            _check_certificate(spec.listener.certificate, parts.certificates())
        refuse_closed_gates(spec.plan, parts.notify)
        if parts.preview is not None:
            await parts.preview.refuse(spec)


async def expected_revision(parts: Parts, name: str, conditions: Conditions) -> int | None:
    """Return the revision that a change must replace, 0 for none and None for whichever there is.

    Raises:
        PreconditionFailedError: It is another one by now.
    """
    if conditions.are_none:
        return None
    try:
        number = (await parts.store.load_service(name)).newest.number
    except NotFoundError:
        number = 0
    conditions.check(str(number) if number else None, what=f"service {name!r}")
    return number


def _check_certificate(name: str, known: Collection[str]) -> None:
    if name and name not in known:
        fix = f"use one of {', '.join(sorted(known))}" if known else "put its files into HUESHIFT_CERTIFICATES_DIR"
        raise InvalidInputError("listener.tls.certificate", f"{name!r} is not on the control plane", fix)


def _check_pictures(spec: ServiceSpec, *, compares: bool) -> None:
    slo = quality_slo(spec.slos)
    if slo is not None and not compares:
        raise InvalidInputError(
            f"slos.{slo.name}",
            "needs the package pillow on the control plane",
            "install it there with: pip install 'hueshift[quality]'",
        )


@router.put("/{name}/split")
async def set_split(name: Name, body: SplitRequest, parts: UseParts, caller: Writer) -> ServiceView:
    """Set the live split by hand. Refused while a rollout is active: it owns the split."""
    split = split_from(body.weights, field="weights")
    record = await parts.store.load_service(name)
    latest = await parts.store.load_latest(name)
    nodes, health = await parts.store.load_nodes(), await parts.store.load_health()
    now_bp = {share.version: share.weight_bp for share in split_now(record, latest)}
    for share in split:
        version = record.served.spec.version(share.version)
        if share.weight_bp > now_bp.get(share.version, 0):
            refuse_dead_version(version, nodes, health)
    why = body.why or caller.why
    await parts.store.set_split(name, split, by=caller.name, why=why, now=parts.clock.now())
    log.info("split.set", service=name, split={share.version: share.weight_bp for share in split}, by=caller.name)
    return service_view(await parts.store.load_service(name), latest, nodes, health)


@router.get("/{name}/history")
async def show_history(
    name: Name,
    parts: UseParts,
    _: Reader,
    limit: Annotated[int, Query(ge=1, le=MAX_EVENTS)] = 200,
    cursor: Cursor = None,
    rollout: Annotated[str | None, Query(description="Only what belongs to this rollout.", max_length=80)] = None,
) -> HistoryPage:
    """Show what happened to a service and its rollouts, newest first."""
    before = read_number(cursor, "history")
    entries = await parts.store.history(name, rollout=rollout, before=before, limit=limit + 1)
    if not entries:  # what was deleted has a history, too
        await parts.store.load_service(name)
    page, last = cut(entries[::-1], limit)
    return HistoryPage(
        items=[event_view(entry) for entry in page],
        next=None if last is None else write_cursor("history", str(last.number)),
    )


@router.get("/{name}/events")
async def follow_events(
    name: Name,
    request: Request,
    parts: UseParts,
    _: Reader,
    after: Annotated[int, Query(ge=0, le=MAX_NUMBER, description="The last number you know; 0 for all.")] = 0,
    wait: Annotated[str, Query(description="How long to wait for one, up to 60s.", max_length=20)] = "0s",
) -> EventsView:
    """Return events after *after*, waiting for one if there is none yet.

    A long poll, which any client and proxy can do; an `EventSource` could not send the API key.
    """
    patience = _read_wait(wait)
    await parts.store.load_service(name)
    if request.app.state.watchers >= MAX_WATCHERS:
        raise UnavailableError(f"{MAX_WATCHERS} clients wait for events already; ask again in a moment")
    request.app.state.watchers += 1
    try:
        return await _next_events(name, request, parts, after, patience)
    finally:
        request.app.state.watchers -= 1


async def _next_events(name: str, request: Request, parts: UseParts, after: int, patience: dt.timedelta) -> EventsView:
    give_up = parts.clock.steady() + patience.total_seconds()
    while True:
        found = await parts.store.history_since(name, after, limit=MAX_EVENTS)
        if found or parts.clock.steady() >= give_up or await request.is_disconnected():
            return EventsView(events=[event_view(entry) for entry in found], next=found[-1].number if found else after)
        await parts.clock.sleep(POLL)


def _read_wait(text: str) -> dt.timedelta:
    try:
        wait = units.parse_span(text)
    except units.UnitError as exc:
        raise InvalidInputError("wait", exc.problem, exc.fix) from exc
    if wait > MAX_WAIT:
        raise InvalidInputError("wait", f"{text} is too long", "use up to 60s and ask again")
    return wait
