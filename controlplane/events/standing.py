"""How services and their rollouts stand now, read from rows for all readers of a process at once."""

import dataclasses
import datetime as dt
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from controlplane.clock import Clock
from controlplane.controller.fleet import FleetLevel
from controlplane.controller.groups import GroupView, level_of, load_newest_groups
from controlplane.events.model import EventType, encode
from controlplane.events.ring import Levels
from controlplane.ports import Rollout, RolloutId, Store
from controlplane.rollout.lifecycle import describe, state_name, weight_bp
from controlplane.rollout.model import Baking, Paused, Promoted, RolledBack, RollingBack, Shifting, is_final
from controlplane.rollout.objectives import policy_of
from controlplane.rollout.standing import Versions, standings
from controlplane.rollout.verdict import ObjectiveEvidence
from controlplane.traffic.model import Split

MAX_REMEMBERED: Final = 500
"""Rollouts that have ended of which a fresh process tells how they ended."""
MAX_NAMED: Final = 20
"""Envoys that are named as those that are waited for."""


@dataclasses.dataclass(slots=True, kw_only=True)
class Standing:
    """Reads levels, and remembers what only the past tells: newest rollouts that ended, weights that were live last."""

    store: Store
    clock: Clock
    levels: Levels
    _newest: dict[str, Rollout] = dataclasses.field(default_factory=dict)
    _live: dict[str, Split] = dataclasses.field(default_factory=dict)
    _knows_past: bool = False

    async def read(self) -> bool:
        """Read how all services stand; return whether anything is new.

        Raises:
            UnavailableError: The database does not answer.
        """
        groups, _who = await load_newest_groups(self.store, now=self.clock.now())
        await self._read_rollouts()
        services: dict[str, list[GroupView]] = {}
        splits: dict[str, Split] = {}
        for group in groups:
            for served in group.plan.services:
                services.setdefault(served.spec.name, []).append(group)
                splits.setdefault(served.spec.name, served.split)
        news = [
            self._put(service, splits[service], level_of(groups_of), self._newest.get(service))
            for service, groups_of in services.items()
        ]
        self.levels.forget(frozenset(services), EventType.STATE, EventType.WEIGHTS)
        return any(news)

    async def read_evidence(self) -> bool:
        """Read what the judge said last of the rollouts that go on; return whether anything is new."""
        active = await self.store.load_active()
        news = [
            self.levels.put(EventType.EVIDENCE, rollout.service, encode(EventType.EVIDENCE, evidence_data(rollout)))
            for rollout in active
            if rollout.evidence
        ]
        self.levels.forget(frozenset(rollout.service for rollout in active), EventType.EVIDENCE)
        return any(news)

    async def _read_rollouts(self) -> None:
        """Bring the newest rollout of each service up to date: those that go on, and once more those that ended."""
        if not self._knows_past:
            for rollout in reversed(await self.store.list_rollouts(limit=MAX_REMEMBERED)):
                self._newest[rollout.service] = rollout
            self._knows_past = True
        active = {rollout.service: rollout for rollout in await self.store.load_active()}
        for service, known in tuple(self._newest.items()):
            if not is_final(known.state) and active.get(service, known).id == known.id and service not in active:
                self._newest[service] = await self.store.load(RolloutId(known.id))
        self._newest |= active

    def _put(self, service: str, split: Split, level: FleetLevel, rollout: Rollout | None) -> bool:
        if level.settled:
            self._live[service] = split
        is_new = self.levels.put(EventType.STATE, service, encode(EventType.STATE, state_data(service, rollout)))
        weights = encode(EventType.WEIGHTS, weights_data(service, split, self._live.get(service), level))
        return self.levels.put(EventType.WEIGHTS, service, weights) or is_new


def state_data(service: str, rollout: Rollout | None) -> Mapping[str, Any]:
    """Say how a service's newest rollout stands."""
    return {"service": service, "rollout": None if rollout is None else _rollout_data(rollout)}


def weights_data(service: str, split: Split, live: Split | None, level: FleetLevel) -> Mapping[str, Any]:
    """Say which weights are asked for, and which were acknowledged by all Envoys last (None: by none so far).

    Basis points, by version.
    """
    return {
        "service": service,
        "set": _weights(split),
        "acked": None if live is None else _weights(live),
        "envoys": level.expected,
        "envoys_acked": level.acked,
        "waiting": list(level.waiting[:MAX_NAMED]),
        "refusals": [str(refusal) for refusal in level.refusals[:MAX_NAMED]],
    }


def evidence_data(rollout: Rollout) -> Mapping[str, Any]:
    """Say what the judge saw last, with the odds at which each objective would undo the rollout."""
    found = json.loads(rollout.evidence or "{}")
    objectives = [ObjectiveEvidence(**each) for each in found.get("objectives", ())]
    versions = Versions(rollout.baseline, rollout.candidate)
    return {
        "service": rollout.service,
        "rollout": rollout.id,
        "at": _moment(rollout.judged_tick),
        "verdict": found.get("verdict"),
        "sentence": found.get("reason"),
        "objectives": [
            {**dataclasses.asdict(each.evidence), "odds_limit": each.odds_limit, "words": each.words}
            for each in standings(objectives, policy_of(rollout.slos), versions, rate=0.0)
        ],
    }


def _rollout_data(rollout: Rollout) -> Mapping[str, Any]:
    state = rollout.state
    return {
        "id": rollout.id,
        "baseline": rollout.baseline,
        "candidate": rollout.candidate,
        "state": state_name(state),
        "phase": describe(state),
        "cause": state.cause.value if isinstance(state, Paused | RollingBack | RolledBack) else None,
        "words": state.words if isinstance(state, Paused | RollingBack | Promoted | RolledBack) else "",
        "active": not is_final(state),
        "step": state.step + 1 if isinstance(state, Shifting | Baking | Paused) else None,
        "steps": len(rollout.plan.steps),
        "weight_bp": weight_bp(rollout.plan, state) or 0,
        "since": (state.at if isinstance(state, Promoted | RolledBack) else state.since).isoformat(),
    }


def _weights(split: Split) -> Mapping[str, int]:
    return {share.version: share.weight_bp for share in split}


def _moment(tick: int | None) -> str | None:
    return None if tick is None else dt.datetime.fromtimestamp(tick, dt.UTC).isoformat()


def named(followers: Iterable[frozenset[str] | None]) -> Sequence[str]:
    """Return the services that were asked for by name, in order."""
    return sorted({service for services in followers if services for service in services})
