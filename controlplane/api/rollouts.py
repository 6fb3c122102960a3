"""Rollouts: start one, steer it, look at it."""

import dataclasses
from typing import Annotated

import structlog
from fastapi import APIRouter, Path, Query, status

from controlplane.api.access import Caller, Parts, Reader, UseParts, Writer
from controlplane.api.answers import CommandView, RolloutView, StatusView
from controlplane.api.documents import plan_from
from controlplane.api.guards import refuse_dead_version, refuse_other_model
from controlplane.api.paging import Cursor, Page, cut, read_cursor, write_cursor
from controlplane.api.quality import newest_comparisons
from controlplane.api.routing import ApiRoute
from controlplane.api.schemas import CommandRequest, PlanDocument, PromoteRequest, StartRequest
from controlplane.api.services import Name
from controlplane.api.views import rollout_view, status_view
from controlplane.controller.groups import carriers, load_newest_groups
from controlplane.errors import ConflictError, InvalidInputError, NotFoundError
from controlplane.ports import NewRollout, RolloutId, ServiceRecord
from controlplane.rollout.lifecycle import advance
from controlplane.rollout.model import Abort, Command, Pause, Plan, Promote, Resume, is_final
from controlplane.rollout.quality import check_demands
from controlplane.traffic.model import Version

log = structlog.get_logger(__name__)

router = APIRouter(prefix="/v1", tags=["rollouts"], route_class=ApiRoute)


@router.post("/services/{name}/rollouts", status_code=status.HTTP_202_ACCEPTED)
async def start_rollout(name: Name, body: StartRequest, parts: UseParts, caller: Writer) -> RolloutView:
    """Start a rollout; it prepares, then moves by the plan as far as the evidence carries it."""
    store = parts.store
    record = await store.load_service(name)
    version = _candidate(record, body.to)
    plan = _plan(record.served.spec.plan, body)
    check_demands(plan, record.served.spec.slos)
    latest = await store.load_latest(name)
    if latest is None or is_final(latest.state):
        # Otherwise the store answers: with the conflict, or with the rollout that this very request has started.
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
    """Show one rollout."""
    return rollout_view(await parts.store.load(RolloutId(rollout)))


@router.get("/services/{name}/status")
async def show_status(
    name: Name, parts: UseParts, _: Reader, events: Annotated[int, Query(ge=0, le=200)] = 10
) -> StatusView:
    """Show everything about a service: split, rollout, evidence, who acknowledged, what happened last."""
    store = parts.store
    record = await store.load_service(name)
    rollout = await store.load_latest(name)
    now = parts.clock.now()
    groups, _who = await load_newest_groups(store, now=now)
    view = status_view(
        record,
        rollout,
        groups=tuple(carriers(groups, name)),
        health=await store.load_health(),
        pending=await store.load_pending(rollout.id) if rollout else (),
        events=await store.history(name, limit=events) if events else (),
        models=await store.load_models([version.cluster for version in record.served.spec.versions]),
        now=now,
    )
    return view.model_copy(update={"quality": await newest_comparisons(store, rollout)})


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
    """Give all traffic back to the old version."""
    return await _command(name, Abort(caller.name, _why(body, caller)), parts, caller)


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
        advance(rollout.plan, rollout.state, command, now=parts.clock.now())


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
