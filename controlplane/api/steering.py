"""The way back, starts that wait, freeze windows, and the one stop for everything."""

import datetime as dt
from typing import Annotated

import structlog
from fastapi import APIRouter, Path, status

from controlplane.api.access import Reader, UseParts, Writer
from controlplane.api.answers import RolloutView, WaitingView
from controlplane.api.guards import refuse_dead_version, refuse_other_model
from controlplane.api.requests import CommandRequest, FreezeRequest, UndoRequest
from controlplane.api.routing import ApiRoute
from controlplane.api.services import Name
from controlplane.api.steering_answers import FreezeView, StoppedView, UndoneView
from controlplane.api.views import rollout_view
from controlplane.api.waiting import waiting_view, waiting_views
from controlplane.errors import ConflictError, InvalidInputError
from controlplane.ports import NewRollout
from controlplane.rollout.freezing import EVERY_SERVICE, Freeze, freeze_words
from controlplane.rollout.model import Promoted, is_final
from controlplane.rollout.quality import check_demands

log = structlog.get_logger(__name__)

router = APIRouter(prefix="/v1", tags=["rollouts"], route_class=ApiRoute)

LONGEST_FREEZE = dt.timedelta(days=90)

StartId = Annotated[str, Path(description="Its id, for example colorize-8.", max_length=80)]


@router.post("/services/{name}/rollout/undo", status_code=status.HTTP_202_ACCEPTED)
async def undo_rollout(name: Name, parts: UseParts, caller: Writer, body: UndoRequest | None = None) -> UndoneView:
    """Give traffic back to the version before, at once.

    While a rollout is active, its bake at 100 % included, that is its end, one change to a version that is still warm.
    Later it is a rollout of its own, without steps and without the judge; it waits for healthy workers and for every
    Envoy.
    """
    body = body or UndoRequest()
    why = body.why or caller.why
    done = await parts.store.undo(
        name, body.to or "", by=caller.name, why=why, key=caller.scoped_key, now=parts.clock.now()
    )
    log.info("rollout.undone", service=name, rollout_id=done.rollout, version=done.version, by=caller.name)
    what = f"rollout {done.rollout} takes it there" if done.command is None else f"rollout {done.rollout} ends"
    words = f"all traffic of {name} goes back to {done.version}: {what}"
    line = [
        each.id for each in (await parts.store.load_agenda(since=parts.clock.now())).waiting if each.service == name
    ]
    if line:
        words += f"; {', '.join(line)} waits and starts later: hueshift queue {name}"
    return UndoneView(service=name, rollout=done.rollout, version=done.version, command=done.command, words=words)


@router.post("/services/{name}/rollout/retry", status_code=status.HTTP_202_ACCEPTED)
async def retry_rollout(name: Name, parts: UseParts, caller: Writer, body: CommandRequest | None = None) -> RolloutView:
    """Start the last rollout, which was rolled back, once more: the same versions and plan, the objectives of today."""
    store = parts.store
    record = await store.load_service(name)
    latest = await store.load_latest(name)
    if latest is None:
        raise ConflictError(f"nothing to retry: {name!r} has had no rollout; start one")
    why = (body.why if body else "") or caller.why
    again = f"{latest.id} once more" + (f": {why}" if why else "")
    if isinstance(latest.state, Promoted):
        raise ConflictError(f"nothing to retry: {latest.id} was promoted; start a rollout to another version")
    spec = record.served.spec
    check_demands(latest.plan, spec.slos)
    if is_final(latest.state) and not latest.plan.direct:
        version = spec.version(latest.candidate)
        refuse_dead_version(version, await store.load_nodes(), await store.load_health())
        refuse_other_model(version, await store.load_models((version.cluster,)))
    new = NewRollout(name, latest.candidate, latest.plan, spec.slos, caller.name, again, latest.baseline, "retry")
    # One that is active is refused by the store, unless this very request has started it.
    rollout = await store.start(new, key=caller.scoped_key, now=parts.clock.now())
    log.info("rollout.retried", rollout_id=rollout.id, before=latest.id, by=caller.name)
    return rollout_view(rollout)


# -- the line ----------------------------------------------------------------------------------------------------------


@router.get("/services/{name}/queue")
async def show_queue(name: Name, parts: UseParts, _: Reader) -> list[WaitingView]:
    """List the starts that wait, in the order in which they start; ten at most."""
    await parts.store.load_service(name)
    now = parts.clock.now()
    agenda = await parts.store.load_agenda(since=now)
    return waiting_views(agenda, await parts.store.load_latest(name), name, now=now)


@router.post("/services/{name}/queue/{start}/cancel")
async def cancel_start(
    name: Name, start: StartId, parts: UseParts, caller: Writer, body: CommandRequest | None = None
) -> WaitingView:
    """Let a start wait no longer: it never begins."""
    store, now = parts.store, parts.clock.now()
    why = (body.why if body else "") or caller.why
    await store.cancel(name, start, by=caller.name, why=why, now=now)
    log.info("start.cancelled", start=start, by=caller.name)
    agenda = await store.load_agenda(since=now)
    return waiting_view(await store.load_waiting(start), agenda, await store.load_latest(name), now=now)


# -- freezes and the stop ----------------------------------------------------------------------------------------------


@router.get("/freezes")
async def list_freezes(parts: UseParts, reader: Reader) -> list[FreezeView]:
    """List the freezes that are in force; one per service that one may see, and one of everything at most."""
    freezes = (await parts.store.load_agenda(since=parts.clock.now())).freezes
    return [
        _freeze_view(freeze) for freeze in freezes if freeze.service == EVERY_SERVICE or reader.sees(freeze.service)
    ]


@router.post("/services/{name}/freeze")
async def freeze_service(name: Name, body: FreezeRequest, parts: UseParts, caller: Writer) -> FreezeView:
    """Let no rollout of the service start or get more traffic until then. Giving traffic back works all the same."""
    return await _freeze(name, body, parts, caller)


@router.post("/services/{name}/unfreeze")
async def unfreeze_service(
    name: Name, parts: UseParts, caller: Writer, body: CommandRequest | None = None
) -> FreezeView:
    """End the service's freeze; what waited goes on."""
    return await _unfreeze(name, body, parts, caller)


@router.post("/freeze")
async def freeze_all(body: FreezeRequest, parts: UseParts, caller: Writer) -> FreezeView:
    """Let no rollout of any service start or get more traffic until then."""
    return await _freeze(EVERY_SERVICE, body, parts, caller)


@router.post("/unfreeze")
async def unfreeze_all(parts: UseParts, caller: Writer, body: CommandRequest | None = None) -> FreezeView:
    """End the freeze of everything; services that were frozen by themselves stay so."""
    return await _unfreeze(EVERY_SERVICE, body, parts, caller)


@router.post("/rollouts/abort", status_code=status.HTTP_202_ACCEPTED)
async def abort_all(parts: UseParts, caller: Writer, body: CommandRequest | None = None) -> StoppedView:
    """Give all traffic back to the old versions, in every rollout, and begin none of those that wait."""
    why = (body.why if body else "") or caller.why
    stopped = await parts.store.stop_all(by=caller.name, why=why, now=parts.clock.now())
    log.warning("rollout.all_aborted", rollouts=stopped.rollouts, cancelled=stopped.cancelled, by=caller.name)
    words = (
        f"{_count(stopped.rollouts, 'rollout')} told to abort, {_count(stopped.cancelled, 'waiting start')} cancelled"
    )
    if stopped.left:
        words += f"; {', '.join(stopped.left)} gives its traffic back already"
    return StoppedView(
        rollouts=list(stopped.rollouts), cancelled=list(stopped.cancelled), left=list(stopped.left), words=words
    )


async def _freeze(service: str, body: FreezeRequest, parts: UseParts, caller: Writer) -> FreezeView:
    now = parts.clock.now()
    if not now < body.until <= now + LONGEST_FREEZE:
        problem = "has passed already" if body.until <= now else "is too far ahead"
        raise InvalidInputError("until", f"{body.until:%F %R %Z} {problem}", "use a time within the next 90 days")
    why = body.why or caller.why
    freeze = await parts.store.freeze(service, until=body.until, by=caller.name, why=why, now=now)
    log.warning("freeze.began", service=service or "*", until=body.until.isoformat(), by=caller.name)
    return _freeze_view(freeze)


async def _unfreeze(service: str, body: CommandRequest | None, parts: UseParts, caller: Writer) -> FreezeView:
    why = (body.why if body else "") or caller.why
    freeze = await parts.store.unfreeze(service, by=caller.name, why=why, now=parts.clock.now())
    log.warning("freeze.ended", service=service or "*", by=caller.name)
    return _freeze_view(freeze)


def _freeze_view(freeze: Freeze) -> FreezeView:
    return FreezeView(
        service=freeze.service or None,
        until=freeze.until,
        by=freeze.by,
        why=freeze.why,
        at=freeze.at,
        words=freeze_words(freeze),
    )


def _count(things: tuple[str, ...], name: str) -> str:
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"
