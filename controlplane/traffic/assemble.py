"""From the split that rows hold to the one that Envoy serves: pure, and the same for every replica."""

from controlplane.rollout.model import FULL_WEIGHT_BP
from controlplane.traffic.model import Share, Split


def rollout_split(before: Split, baseline: str, candidate: str, candidate_bp: int) -> Split:
    """Return the split in which *candidate* has *candidate_bp* basis points of what the two have, *baseline* the rest.

    Other versions keep what they have in *before*, the split that the rollout found. The stable versions come first and
    the growing one last, so that with hashed splits a user who saw the candidate keeps seeing it while its weight grows
    (envoy.md section 3). A version without weight is left out; as long as the two share something, neither is.
    """
    others = tuple(share for share in before if share.version not in {baseline, candidate} and share.weight_bp)
    pool = FULL_WEIGHT_BP - sum(share.weight_bp for share in others)
    taken = round(pool * candidate_bp / FULL_WEIGHT_BP)
    if 0 < candidate_bp < FULL_WEIGHT_BP:
        taken = min(max(taken, 1), max(pool - 1, 1))
    pair = (Share(baseline, pool - taken), Share(candidate, taken))
    return (*others, *(share for share in pair if share.weight_bp))
