"""Why a candidate may get no more traffic now, whatever the judge thinks of it."""

import datetime as dt
from collections.abc import Sequence

from controlplane.controller.pictures import picture_holds
from controlplane.ports import ModelStore, Rollout
from controlplane.rollout.quality import QualityRun
from controlplane.traffic import provenance
from controlplane.traffic.model import ServiceSpec


async def load_holds(
    store: ModelStore, spec: ServiceSpec, rollout: Rollout, runs: Sequence[QualityRun], *, now: dt.datetime
) -> tuple[str, ...]:
    """Return the reasons, a phrase each; none is the usual case. *runs* are the rollout's newest comparisons.

    Raises:
        NotFoundError: The service has left the candidate behind.
    """
    candidate = spec.version(rollout.candidate)
    found = picture_holds(rollout, runs)
    if candidate.model is None:
        return found
    return (*provenance.holds(candidate, await store.load_models((candidate.cluster,)), now=now), *found)
