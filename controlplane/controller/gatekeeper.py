"""Asks the gates of plans, and keeps what they say.

Context: gates are strangers' programs, and this process may die at any line. Choice: each question is a task of its
own, bounded in time, and its answer a row; only the lease holder asks. Consequence: no gate delays the
controller's turns, and whoever leads next goes on from the rows: a gate may be asked once
more, and is never thought open for want of it.
"""

import asyncio
import dataclasses
import datetime as dt
import json
import uuid
from collections.abc import Awaitable, Callable, Collection
from typing import Final, Protocol

import structlog

from controlplane.clock import Clock
from controlplane.controller.gates import Visit, has_gates, is_due, told, visit_of
from controlplane.courier.model import cloud_event
from controlplane.errors import ControlPlaneError
from controlplane.ports import GateStore, Rollout, RolloutId, RolloutStore
from controlplane.rollout.gate import Decision, GateAnswer

log = structlog.get_logger()

TYPE: Final = "dev.hueshift.gate.asked"
AT_ONCE: Final = 16
"""Questions under way at once, of all rollouts."""
LONGEST: Final = dt.timedelta(seconds=10)
"""The longest that one question takes."""


class GateSource(Protocol):
    """Asks one gate."""

    async def ask(
        self, url: str, body: bytes, *, event: str, secrets: Collection[str], within: dt.timedelta, now: dt.datetime
    ) -> tuple[Decision, str]:
        """Ask once, *within* a span; what goes wrong is `Decision.SILENT`, in words that name no secret."""


class AskingStore(RolloutStore, GateStore, Protocol):
    """What the gatekeeper reads and writes."""


Secrets = Callable[[str], Awaitable[tuple[str, ...]]]
"""Tells what questions about a service are signed with; nothing where nobody has made a secret."""


@dataclasses.dataclass(slots=True, kw_only=True)
class Gatekeeper:
    """Asks each gate that a rollout stands before, whenever `gates.is_due` says so.

    *leads* says whether this process moves the rollouts: only that one asks. *cluster* is what it calls itself.
    """

    store: AskingStore
    source: GateSource
    secrets: Secrets
    clock: Clock
    leads: Callable[[], bool]
    cluster: str
    interval: dt.timedelta = dt.timedelta(seconds=1)
    _running: set[RolloutId] = dataclasses.field(default_factory=set)

    async def run(self) -> None:
        """Ask what is due, for ever."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                try:
                    await self.turn(tasks)
                except ControlPlaneError:
                    log.warning("gatekeeper.turn_refused", exc_info=True)
                except Exception:  # a bug in one turn must not end the guard; the next turn reads everything anew
                    log.exception("gatekeeper.turn_crashed")
                await self.clock.sleep(self.interval)

    async def turn(self, tasks: asyncio.TaskGroup) -> None:
        """Ask the gates that are due, as tasks of *tasks*."""
        if not self.leads():
            return
        for rollout in await self.store.load_active():
            visit = visit_of(rollout)
            if visit is None or not has_gates(rollout) or rollout.id in self._running:
                continue
            if len(self._running) >= AT_ONCE:
                return
            if is_due(rollout, await self.store.load_gate(rollout.id), now=self.clock.now()):
                self._running.add(rollout.id)
                tasks.create_task(self.ask(rollout, visit), name=f"gate of {rollout.id}")

    async def ask(self, rollout: Rollout, visit: Visit) -> None:
        """Ask one gate once, and keep what it says."""
        try:
            asked_at = self.clock.now()
            decision, words = await self._hear(rollout, visit, asked_at)
            answer = GateAnswer(visit.step, visit.gate.before, visit.since, asked_at, asked_at, decision, words)
            if await self.store.answer_gate(rollout.id, answer, words=told(visit, answer), now=self.clock.now()):
                log.info("gate.answered", rollout_id=rollout.id, host=visit.gate.host, decision=decision.value)
        except ControlPlaneError as exc:
            log.warning("gate.answer_not_kept", rollout_id=rollout.id, error=str(exc))
        except Exception:  # a bug over one gate must not end the others' questions
            log.exception("gate.crashed", rollout_id=rollout.id)
        finally:
            self._running.discard(rollout.id)

    async def _hear(self, rollout: Rollout, visit: Visit, now: dt.datetime) -> tuple[Decision, str]:
        secrets = await self.secrets(rollout.service)
        if not secrets:
            return Decision.SILENT, (
                f"it was not asked, since there is no secret to sign with; make one: hueshift notify set"
                f" {rollout.service} gate"
            )
        event = f"evt_{uuid.uuid4().hex}"
        within = min(LONGEST, visit.gate.timeout)
        body = self._question(event, rollout, visit, now)
        return await self.source.ask(visit.gate.url, body, event=event, secrets=secrets, within=within, now=now)

    def _question(self, event: str, rollout: Rollout, visit: Visit, now: dt.datetime) -> bytes:
        evidence = json.loads(rollout.evidence or "{}")
        data = {
            "cluster": self.cluster,
            "service": rollout.service,
            "rollout": rollout.id,
            "baseline": rollout.baseline,
            "candidate": rollout.candidate,
            "before": visit.gate.before.value,
            "step": visit.step + 1,
            "steps": len(rollout.plan.steps),
            "weight_bp": rollout.plan.steps[visit.step].weight_bp,
            "since": visit.since.isoformat(),
            "evidence": evidence.get("reason"),
            "started_by": rollout.by,
            "why": rollout.why,
            "answer": '{"decision": "open" | "closed" | "abort", "reason": "..."}',
        }
        source = f"/v1/services/{rollout.service}"
        return cloud_event(event, TYPE, source=source, subject=rollout.id, at=now, data=data)
