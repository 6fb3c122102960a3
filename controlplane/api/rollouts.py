"""Rollouts: start one, steer it, look at it."""

import dataclasses
import datetime as dt
from typing import Annotated

import structlog
from fastapi import APIRouter, Path, Query, status

from controlplane.api.access import Caller, Parts, Reader, UseParts, Writer
from controlplane.api.answers import CommandView, RolloutView, StatusView
from controlplane.api.documents import plan_from
from controlplane.api.guards import (
    refuse_closed_gates,
    refuse_dead_version,
    refuse_failed_version,
    refuse_other_model,
)
from controlplane.api.live import load_status
from controlplane.api.paging import Cursor, Page, cut, read_cursor, write_cursor
from controlplane.api.requests import CommandRequest, PromoteRequest, StartRequest
from controlplane.api.routing import ApiRoute
from controlplane.api.schemas import PlanDocument
from controlplane.api.services import Name
from controlplane.api.views import rollout_view
from controlplane.api.waiting import waiting_rollout_view, waiting_view
from controlplane.controller.holds import refuse_more
from controlplane.controller.line import frozen_words
from controlplane.errors import ConflictError, InvalidInputError, NotFoundError
from controlplane.ports import NewRollout, RolloutId, ServiceRecord
from controlplane.rollout.lifecycle import advance
from controlplane.rollout.model import Abort, Command, Pause, Plan, Promote, Resume, is_final
from controlplane.rollout.quality import check_demands
from controlplane.rollout.waiting import WaitingStart
from controlplane.traffic.model import Version

log = structlog.get_logger(__name__)

router = APIRouter(prefix="/v1", tags=["rollouts"], route_class=ApiRoute)

LONGEST_WAIT = dt.timedelta(days=90)


@router.post("/services/{name}/rollouts", status_code=status.HTTP_202_ACCEPTED)
async def start_rollout(name: Name, body: StartRequest, parts: UseParts, caller: Writer) -> RolloutView:
    """Start a rollout; it prepares, then moves by the plan as far as the evidence carries it.

    With *supersede*, *queue* or *at* it may have to wait: it is then ``queued`` or ``scheduled``, under the id that its
    rollout will have.
    """
    store = parts.store
    record = await store.load_service(name)
    version = _candidate(record, body.to)
    _check_waits(body, now=parts.clock.now())
    plan = _plan(record.served.spec.plan, body)
    check_demands(plan, record.served.spec.slos)
    refuse_closed_gates(plan, parts.notify)
    latest = await store.load_latest(name)
    if body.waits:
        refuse_failed_version(await store.load_failure(name, body.to), again=body.again)
        return await _line_up(record, body, plan, parts, caller)
    if latest is None or is_final(latest.state):
        # Otherwise the store answers: with the conflict, or with the rollout that this very request has started.
        refuse_failed_version(await store.load_failure(name, body.to), again=body.again)
        refuse_dead_version(version, await store.load_nodes(), await store.load_health())
        refuse_other_model(version, await store.load_models((version.cluster,)))
    why = body.why or caller.why
    new = NewRollout(name, body.to, plan, record.served.spec.slos, caller.name, why, body.replaces or "")
    rollout = await store.start(new, key=caller.scoped_key, now=parts.clock.now())
    log.info("rollout.started", rollout_id=rollout.id, candidate=rollout.candidate, by=caller.name)
    return rollout_view(rollout)


class RolloutPage(Page[RolloutView]):
    """Rollouts, newest first."""


@router.get("/services/{name}/rollouts")
async def list_rollouts(
    name: Name,
    parts: UseParts,
    _: Reader,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Cursor = None,
) -> RolloutPage:
    """List a service's rollouts, newest first."""
    await parts.store.load_service(name)
    place = read_cursor(cursor, "rollouts")
    before = None if place is None else RolloutId(place)
    page, last = cut(await parts.store.list_rollouts(name, before=before, limit=limit + 1), limit)
    return RolloutPage(
        items=[rollout_view(rollout) for rollout in page],
        next=None if last is None else write_cursor("rollouts", last.id),
    )


@router.get("/rollouts/{rollout}")
async def show_rollout(
    rollout: Annotated[str, Path(description="Its id, for example colorize-7.", max_length=80)],
    parts: UseParts,
    _: Reader,
) -> RolloutView:
    """Show one rollout, or the start that waits under this id."""
    store, now = parts.store, parts.clock.now()
    try:
        return rollout_view(await store.load(RolloutId(rollout)))
    except NotFoundError as unknown:
        try:
            waiting = await store.load_waiting(rollout)
        except NotFoundError:
            raise unknown from None
    latest, agenda = await store.load_latest(waiting.service), await store.load_agenda(since=now)
    shown = waiting_view(waiting, agenda, latest, now=now)
    return waiting_rollout_view(waiting, shown, await store.load_service(waiting.service))


@router.get("/services/{name}/status")
async def show_status(
    name: Name, parts: UseParts, _: Reader, events: Annotated[int, Query(ge=0, le=200)] = 10
) -> StatusView:
    """Show everything about a service: split, rollout, evidence, who acknowledged, what happened last."""
    return await load_status(parts.store, name, events=events, now=parts.clock.now())


@router.post("/services/{name}/rollout/pause", status_code=status.HTTP_202_ACCEPTED)
async def pause_rollout(name: Name, parts: UseParts, caller: Writer, body: CommandRequest | None = None) -> CommandView:
    """Stop the active rollout where it is. The judge watches on: a breach still rolls back."""
    return await _command(name, Pause(caller.name, _why(body, caller)), parts, caller)


@router.post("/services/{name}/rollout/resume", status_code=status.HTTP_202_ACCEPTED)
async def resume_rollout(
    name: Name, parts: UseParts, caller: Writer, body: CommandRequest | None = None
) -> CommandView:
    """Let a paused rollout go on."""
    return await _command(name, Resume(caller.name, _why(body, caller)), parts, caller)


@router.post("/services/{name}/rollout/promote", status_code=status.HTTP_202_ACCEPTED)
async def promote_rollout(
    name: Name, parts: UseParts, caller: Writer, body: PromoteRequest | None = None
) -> CommandView:
    """Take the next step, or with *full* the last one, without waiting for the judge."""
    full = body.full if body else False
    return await _command(name, Promote(caller.name, _why(body, caller), full), parts, caller)


@router.post("/services/{name}/rollout/abort", status_code=status.HTTP_202_ACCEPTED)
async def abort_rollout(name: Name, parts: UseParts, caller: Writer, body: CommandRequest | None = None) -> CommandView:
    """Give all traffic back to the old version. Where nothing is active, the starts that wait are cancelled."""
    store, now, why = parts.store, parts.clock.now(), _why(body, caller)
    latest = await store.load_latest(name)
    if latest is None or is_final(latest.state):
        cancelled = await store.cancel(name, None, by=caller.name, why=why, now=now)
        if cancelled:
            words = f"{', '.join(each.id for each in cancelled)} waited and never begins"
            return CommandView(number=0, service=name, command="abort", words=words)
    taken = await _command(name, Abort(caller.name, why), parts, caller)
    line = [each for each in (await store.load_agenda(since=now)).waiting if each.service == name]
    if not line:
        return taken
    note = f"{', '.join(each.id for each in line)} waits and starts later: hueshift queue {name}"
    return taken.model_copy(update={"note": note})


async def _command(name: str, command: Command, parts: Parts, caller: Caller) -> CommandView:
    verb = type(command).__name__.lower()
    if caller.key is None:
        await _refuse_senseless(name, command, parts)
    pending = await parts.store.add_command(name, command, key=caller.scoped_key, now=parts.clock.now())
    log.info("rollout.commanded", service=name, command=verb, by=caller.name)
    return CommandView(number=pending.number, service=name, command=verb, words=f"{verb} of {name} was taken down")


async def _refuse_senseless(name: str, command: Command, parts: Parts) -> None:
    """Tell at once what the controller would refuse later.

    Not for repeatable requests, whose first copy may have been carried out, nor while commands wait that would be
    carried out before.
    """
    rollout = await parts.store.load_latest(name)
    if rollout and not is_final(rollout.state) and not await parts.store.load_pending(rollout.id):
        now = parts.clock.now()
        advance(rollout.plan, rollout.state, command, now=now)
        frozen = frozen_words((await parts.store.load_agenda(since=now)).freezes, name, now=now)
        if frozen and not rollout.plan.direct:
            refuse_more(rollout, command, frozen, now=now)


def _check_waits(body: StartRequest, *, now: dt.datetime) -> None:
    if body.supersede and body.queue:
        raise InvalidInputError("queue", "is given beside supersede", "give one of them")
    if body.only_after_success and (body.supersede or not body.waits):
        raise InvalidInputError("only_after_success", "has nothing to wait for", "add queue: true, or at")
    if body.at is not None and not now < body.at <= now + LONGEST_WAIT:
        problem = "has passed already" if body.at <= now else "is too far ahead"
        raise InvalidInputError("at", f"{body.at:%F %T} UTC {problem}", "use a time within the next 90 days")


async def _line_up(record: ServiceRecord, body: StartRequest, plan: Plan, parts: Parts, caller: Caller) -> RolloutView:
    now = parts.clock.now()
    given = body.steps is not None or body.plan is not None
    asked = WaitingStart(
        id="",
        service=record.name,
        candidate=body.to,
        baseline=body.replaces or "",
        plan=plan if given else None,
        supersede=body.supersede,
        only_after_success=body.only_after_success,
        again=body.again,
        after="",
        not_before=body.at,
        by=caller.name,
        why=body.why or caller.why,
        at=now,
    )
    waiting = await parts.store.line_up(asked, key=caller.scoped_key, now=now)
    log.info("start.lined_up", start=waiting.id, candidate=waiting.candidate, by=caller.name)
    agenda = await parts.store.load_agenda(since=now)
    view = waiting_view(waiting, agenda, await parts.store.load_latest(record.name), now=now)
    return waiting_rollout_view(waiting, view, record)


def _why(body: CommandRequest | None, caller: Caller) -> str:
    return (body.why if body else "") or caller.why


def _candidate(record: ServiceRecord, name: str) -> Version:
    try:
        return record.served.spec.version(name)
    except NotFoundError:
        if record.newest.number != record.served.number and any(v.name == name for v in record.newest.spec.versions):
            raise ConflictError(
                f"version {name} is only in revision {record.newest.number}, which Envoy refused: "
                f"{record.newest.words}; correct it and apply again"
            ) from None
        raise


def _plan(plan: Plan, body: StartRequest) -> Plan:
    if body.steps is not None and body.plan is not None:
        raise InvalidInputError("steps", "is given beside plan", "give one of them")
    if body.plan is not None:
        return plan_from(body.plan)
    if body.steps is None:
        return plan
    steps = plan_from(PlanDocument.model_construct(steps=body.steps)).steps
    # A step that only says its weight is held as long as the service's own first step.
    held = [
        step if "hold" in given.model_fields_set else dataclasses.replace(step, hold=plan.steps[0].hold)
        for step, given in zip(steps, body.steps, strict=True)
    ]
    return dataclasses.replace(plan, steps=tuple(held))
