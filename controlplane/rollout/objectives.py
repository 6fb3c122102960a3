"""From the objectives that people declare to the policy that the judge follows."""

import functools
from collections.abc import Iterable, Sequence
from typing import assert_never

from controlplane.rollout.policy import Answers, Handling, Policy, Sampled, ShareObjective, Slower
from controlplane.rollout.slo import (
    ALPHA,
    ClientErrorSlo,
    ErrorRateSlo,
    JudgedSlo,
    LatencySlo,
    OnBreach,
    QuerySlo,
    RatioQuerySlo,
    Slo,
    Terms,
    ValueQuerySlo,
    judged,
    with_defaults,
)
from controlplane.rollout.windows import snap_threshold

LATENCY_TOLERANCE = 1.10
ODDS_TOLERANCE = 2.0


def policy_of(slos: Sequence[Slo]) -> Policy:
    """Return the judge's policy for a service's objectives.

    The first error rate and the first latency are judged with all that the judge knows of them (requests that hang,
    whole histograms); any further ones, and the other kinds, as shares of bad things. One about pictures is none of
    the judge's.
    """
    return _policy_of(tuple(slos))


def query_slos(slos: Iterable[Slo]) -> tuple[QuerySlo, ...]:
    """Return the objectives that are asked for somewhere else."""
    return tuple(slo for slo in slos if isinstance(slo, RatioQuerySlo | ValueQuerySlo))


@functools.lru_cache(maxsize=256)
def _policy_of(declared: tuple[Slo, ...]) -> Policy:
    slos = judged(with_defaults(declared))
    errors = next((slo for slo in slos if isinstance(slo, ErrorRateSlo)), None)
    latency = next((slo for slo in slos if isinstance(slo, LatencySlo)), None)
    failures = tuple(dict.fromkeys(kind for slo in slos if isinstance(slo, ErrorRateSlo) for kind in slo.bad))
    shares = tuple(_share(slo, failures) for slo in slos if slo is not errors and slo is not latency)
    alphas = [slo.terms.alpha for slo in slos]
    defaults = Policy()
    return Policy(
        error_max=errors.max_ratio if errors else None,
        error_bad=errors.bad if errors else defaults.error_bad,
        error_odds_ratio=(errors.terms.tolerance if errors else None) or ODDS_TOLERANCE,
        latency_threshold_ms=latency.threshold_ms if latency else None,
        latency_quantile=latency.quantile if latency else defaults.latency_quantile,
        latency_tolerance=(latency.terms.tolerance if latency else None) or LATENCY_TOLERANCE,
        alpha=ALPHA if None in alphas else sum(alpha for alpha in alphas if alpha is not None),
        quiet_s=max((slo.terms.quiet.total_seconds() for slo in slos if not slo.terms.muted), default=0.0),
        error=_handling(errors.terms) if errors else Handling(),
        latency=_handling(latency.terms) if latency else Handling(),
        shares=shares,
    )


def _handling(terms: Terms) -> Handling:
    return Handling(muted=terms.muted, asks=terms.on_breach is OnBreach.PAUSE, alpha=terms.alpha, budget=terms.budget)


def _share(slo: JudgedSlo, failures: tuple[str, ...]) -> ShareObjective:
    of = functools.partial(
        ShareObjective, slo.name, odds_ratio=slo.terms.tolerance or ODDS_TOLERANCE, handling=_handling(slo.terms)
    )
    match slo:
        case ErrorRateSlo(max_ratio=most, bad=bad):
            return of(f"answered {', '.join(bad)}", Answers(bad), max_share=most)
        case LatencySlo(threshold_ms=threshold, quantile=quantile):
            return of(f"slower than {snap_threshold(threshold):g} ms", Slower(threshold), max_share=1 - quantile)
        case ClientErrorSlo(floor=floor, bad=bad, max_ratio=highest):
            return of("blaming the client", Answers(bad, but=failures), max_share=highest, floor=floor)
        case RatioQuerySlo(name=name, max_ratio=most):
            return of(f"of bad {name}", Sampled(), max_share=most)
        case ValueQuerySlo(name=name, max_ratio=most, interval=interval):
            return of(f"of {name} out of bounds", Sampled(interval.total_seconds()), max_share=most)
        case other:
            assert_never(other)
