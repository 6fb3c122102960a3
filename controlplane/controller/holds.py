"""Why a candidate may get no more traffic now, whatever the judge thinks of it."""

import datetime as dt

from controlplane.ports import ModelStore, Rollout
from controlplane.traffic import provenance
from controlplane.traffic.model import ServiceSpec


async def load_holds(store: ModelStore, spec: ServiceSpec, rollout: Rollout, *, now: dt.datetime) -> tuple[str, ...]:
    """Return the reasons, a phrase each; none is the usual case.

    Raises:
        NotFoundError: The service has left the candidate behind.
    """
    candidate = spec.version(rollout.candidate)
    if candidate.model is None:
        return ()
    return provenance.holds(candidate, await store.load_models((candidate.cluster,)), now=now)
