"""From the split that rows hold to the one that Envoy serves: pure, and the same for every replica."""

from controlplane.rollout.model import FULL_WEIGHT_BP
from controlplane.traffic.model import Share, Split


def rollout_split(baseline: str, candidate: str, candidate_bp: int) -> Split:
    """Return the split in which *candidate* has *candidate_bp* basis points and *baseline* the rest.

    The stable version comes first and the growing one last, so that with hashed splits a user who saw the candidate
    keeps seeing it while its weight grows (envoy.md section 3). A version without weight is left out.
    """
    if candidate_bp == 0:
        return (Share(baseline, FULL_WEIGHT_BP),)
    if candidate_bp == FULL_WEIGHT_BP:
        return (Share(candidate, FULL_WEIGHT_BP),)
    return (Share(baseline, FULL_WEIGHT_BP - candidate_bp), Share(candidate, candidate_bp))
