"""Why a candidate may get no more traffic now, whatever the judge thinks of it."""

import datetime as dt
from collections.abc import Sequence

from controlplane.controller.pictures import picture_holds
from controlplane.errors import ConflictError
from controlplane.ports import ModelStore, Rollout
from controlplane.rollout.lifecycle import adds_traffic, advance
from controlplane.rollout.model import Command
from controlplane.rollout.quality import QualityRun
from controlplane.traffic import provenance
from controlplane.traffic.model import ServiceSpec


class FrozenError(ConflictError):
    """The service is frozen: nothing gets more traffic now."""


async def load_holds(
    store: ModelStore,
    spec: ServiceSpec,
    rollout: Rollout,
    runs: Sequence[QualityRun],
    *,
    frozen: str = "",
    now: dt.datetime,
) -> tuple[str, ...]:
    """Return the reasons, a phrase each; none is the usual case. *runs* are the rollout's newest comparisons.

    *frozen* says which freeze the service is under, if any.

    Raises:
        NotFoundError: The service has left the candidate behind.
    """
    candidate = spec.version(rollout.candidate)
    found = (*((frozen,) if frozen else ()), *picture_holds(rollout, runs))
    if candidate.model is None:
        return found
    return (*provenance.holds(candidate, await store.load_models((candidate.cluster,)), now=now), *found)


def refuse_more(rollout: Rollout, command: Command, frozen: str, *, now: dt.datetime) -> None:
    """Refuse *command* where it would give the candidate more traffic during the freeze that *frozen* tells of.

    Raises:
        FrozenError: It would.
        IllegalTransitionError: It makes no sense in the rollout's state anyway.
    """
    if adds_traffic(rollout.plan, rollout.state, advance(rollout.plan, rollout.state, command, now=now)):
        verb = type(command).__name__.lower()
        raise FrozenError(f"cannot {verb} rollout {rollout.id}: {frozen}; abort and undo work all the same")
