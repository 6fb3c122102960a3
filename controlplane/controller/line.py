"""The line of starts that wait: each turn of the controller moves the first of every service as far as levels allow.

Nothing is remembered between turns but who is to be left alone for a moment: a restart or another leader goes on from
the rows. What a start needs is read when its rollout begins, not when it was asked for: the newest plan, objectives
and versions that the fleet has not refused.
"""

import dataclasses
import datetime as dt
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import structlog

from controlplane.clock import Clock
from controlplane.errors import ConflictError, ControlPlaneError, InvalidInputError, NotFoundError, StaleWriteError
from controlplane.ports import Agenda, Desired, DesiredService, NewRollout, Rollout, RolloutId, Store
from controlplane.rollout.freezing import Freeze, freeze_of, freeze_words, frozen_span
from controlplane.rollout.model import Preparing, RollingBack, Supersede
from controlplane.rollout.quality import check_demands
from controlplane.rollout.waiting import Begin, Drop, Place, Replace, Stay, WaitingStart, decide, in_line

log = structlog.get_logger()

LOOK_BACK: Final = dt.timedelta(days=31)
"""How old a freeze is remembered for the time that it took from a plan: a deadline is 30 days at most."""

BACKOFF: Final = dt.timedelta(seconds=5)
"""How long a service's line is left alone after a bug."""


@dataclasses.dataclass(slots=True, kw_only=True)
class Line:
    """Begins, gives up and makes room for starts that wait."""

    store: Store
    clock: Clock
    _resting: dict[str, float] = dataclasses.field(default_factory=dict)

    async def load_agenda(self) -> Agenda:
        """Read what waits, and the freezes that matter for any rollout that runs."""
        return await self.store.load_agenda(since=self.clock.now() - LOOK_BACK)

    async def turn(self, desired: Desired, agenda: Agenda) -> tuple[bool, Mapping[RolloutId, Supersede]]:
        """Move every line; return whether rows changed, and which rollouts are to make room for whom."""
        changed = False
        leaving: dict[RolloutId, Supersede] = {}
        services = {service.revision.spec.name: service for service in desired.services}
        for first in _firsts(agenda.waiting, self.clock.now()):
            service = services.get(first.service)
            # One whose every revision was refused has no plan to start by; it waits until it has.
            if service is None or self.clock.steady() < self._resting.get(first.service, 0.0):
                continue
            try:
                found = await self._move(first, service, agenda)
            except StaleWriteError:
                changed = True  # somebody else moved it: look again
            except ControlPlaneError:
                log.warning("start.step_refused", start=first.id, exc_info=True)
            except Exception:  # a bug over one service's line must not hold up the others
                log.exception("start.step_crashed", start=first.id)
                self._resting[first.service] = self.clock.steady() + BACKOFF.total_seconds()
            else:
                if isinstance(found, Replace):
                    leaving[RolloutId(found.rollout)] = Supersede(first.by, first.why, first.id)
                changed = changed or isinstance(found, Begin | Drop)
        return changed, leaving

    async def _move(
        self, first: WaitingStart, service: DesiredService, agenda: Agenda
    ) -> Stay | Begin | Replace | Drop:
        now = self.clock.now()
        place = await self._place(first, service, agenda, now)
        move = decide(first, place, now=now)
        if isinstance(move, Begin | Replace):  # only now: the past is long, and most turns have nothing to begin
            failure = await self.store.load_failure(first.service, first.candidate)
            if failure is not None and failure.at > first.at:
                move = decide(first, dataclasses.replace(place, failed=failure.words), now=now)
        if isinstance(move, Begin):
            move = await self._begin(first, service)
        if isinstance(move, Drop):
            await self.store.drop(first, words=move.words, now=now)
            log.warning("start.dropped", start=first.id, words=move.words)
        return move

    async def _place(self, first: WaitingStart, service: DesiredService, agenda: Agenda, now: dt.datetime) -> Place:
        active = service.rollout
        misfortune = await self.store.load_misfortune(first.after) if first.only_after_success and first.after else ""
        return Place(
            active=active.id if active else "",
            leaving=active is not None and (active.plan.direct or isinstance(active.state, RollingBack)),
            frozen=frozen_words(agenda.freezes, first.service, now=now),
            unsuccessful=misfortune,
        )

    async def _begin(self, first: WaitingStart, service: DesiredService) -> Begin | Drop:
        spec = service.revision.spec
        plan = first.plan or spec.plan
        new = NewRollout(first.service, first.candidate, plan, spec.slos, first.by, first.why, first.baseline)
        try:
            check_demands(plan, spec.slos)
            rollout = await self.store.begin(first, new, now=self.clock.now())
        except (ConflictError, NotFoundError, InvalidInputError) as refusal:
            return Drop(str(refusal))
        log.info("rollout.started", rollout_id=rollout.id, candidate=rollout.candidate, by=first.by)
        return Begin()


def frozen_words(freezes: Iterable[Freeze], service: str, *, now: dt.datetime) -> str:
    """Say which freeze *service* is under now; "" where there is none."""
    freeze = freeze_of(freezes, service, now=now)
    return "" if freeze is None else freeze_words(freeze)


def excused(rollout: Rollout, freezes: Iterable[Freeze], *, now: dt.datetime) -> Rollout:
    """Return *rollout* with its clocks put forward by the time that it was frozen: that counts against no plan."""
    freezes = [freeze for freeze in freezes if freeze.covers(rollout.service)]
    if not freezes or rollout.plan.direct:
        return rollout
    began = rollout.deadline_at - rollout.plan.deadline
    lost = frozen_span(freezes, rollout.service, since=began, now=now)
    state = rollout.state
    if isinstance(state, Preparing):
        state = Preparing(state.since + frozen_span(freezes, rollout.service, since=state.since, now=now))
    return dataclasses.replace(rollout, state=state, deadline_at=rollout.deadline_at + lost)


def _firsts(waiting: Iterable[WaitingStart], now: dt.datetime) -> Iterator[WaitingStart]:
    by_service = sorted(waiting, key=lambda each: each.service)
    for _, line in itertools.groupby(by_service, key=lambda each: each.service):
        yield from in_line(line, now=now)[:1]
