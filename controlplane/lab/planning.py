"""What a rollout will be like before it starts: how long it takes, and how soon which defect would be caught.

The service's own traffic, SLOs and plan become worlds of the simulator, with the production judge in them: a healthy
version, and versions with a defect each. So the answers are the judge's own, not a formula's.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from controlplane.errors import InvalidInputError
from controlplane.lab.simulate import MEDIAN_MS, SIGMA, Outcome, Scenario, simulate
from controlplane.rollout.model import Plan
from controlplane.rollout.policy import Policy
from controlplane.rollout.recent import RecentTraffic
from controlplane.rollout.windows import LATENCY_EDGES_MS

REPLICATIONS: Final = 100
MAX_HORIZON_S: Final = 2 * 3_600
"""A rollout that takes longer than this is inconclusive here, whatever its deadline."""

DEFECTS: Final[Mapping[str, Mapping[str, float]]] = {
    "healthy": {},
    "2 % more errors": {"p2": 0.02},
    "5 % more errors": {"p2": 0.05},
    "20 % more errors": {"p2": 0.20},
    "latency x1.5": {"lat2": 1.5},
}
"""What a version may be like, as people call it: errors on top of the service's own, or latencies times so many."""

OFTEN_INCONCLUSIVE: Final = 0.05
SLOW_TO_CATCH_S: Final = 120.0
NEAR_THE_BOUND: Final = 0.5


@dataclasses.dataclass(frozen=True, slots=True)
class Forecast:
    """What is to be expected of one kind of version."""

    name: str
    outcome: Outcome


def worlds(traffic: RecentTraffic, plan: Plan) -> Iterator[Scenario]:
    """Yield a world for each of `DEFECTS`, with the rate, errors and spread of latencies that *traffic* has."""
    spread = SIGMA
    if traffic.p50_ms and traffic.p95_ms and traffic.p95_ms > traffic.p50_ms:
        spread = math.log(traffic.p95_ms / traffic.p50_ms) / 1.6448536269514722
    horizon = int(min(plan.deadline.total_seconds(), MAX_HORIZON_S))
    own = traffic.error_ratio
    for name, defect in DEFECTS.items():
        extra = defect.get("p2", 0.0)
        yield Scenario(
            id=name,
            rps=traffic.rate,
            bad=bool(defect),
            p1=own,
            p2=own + (1 - own) * extra,
            lat2=defect.get("lat2", 1.0),
            horizon=horizon,
            sigma=min(max(spread, 0.05), 2.5),
        )


def scaled(policy: Policy, traffic: RecentTraffic) -> Policy:
    """Return *policy* for latencies whose median is the simulator's: only ratios matter to the judge."""
    if policy.latency_threshold_ms is None or not traffic.p50_ms:
        return policy
    threshold = policy.latency_threshold_ms * MEDIAN_MS / traffic.p50_ms
    return dataclasses.replace(
        policy, latency_threshold_ms=min(max(threshold, LATENCY_EDGES_MS[0]), LATENCY_EDGES_MS[-2])
    )


def simulated(policy: Policy) -> Policy:
    """Return *policy* without the objectives that the simulator has no world for; the others keep their thresholds."""
    left = tuple(share for share in policy.shares if share.max_share is None)
    error, latency, *_ = (
        dataclasses.replace(handling, alpha=alarms / limit) if alarms else handling
        for handling, alarms, limit in zip(policy.handlings, policy.alarms, policy.thresholds, strict=True)
    )
    return dataclasses.replace(policy, error=error, latency=latency, shares=left)


def forecast(
    traffic: RecentTraffic, plan: Plan, policy: Policy, *, replications: int = REPLICATIONS, seed: int = 1
) -> list[Forecast]:
    """Say what is to be expected of every kind of version; *traffic* must have requests."""
    outcomes = simulate(
        list(worlds(traffic, plan)),
        replications=replications,
        seed=seed,
        policy=scaled(simulated(policy), traffic),
        steps=[step.weight_bp / 10_000 for step in plan.steps],
        holds=[step.hold.total_seconds() for step in plan.steps],
    )
    return [Forecast(outcome.scenario.id, outcome) for outcome in outcomes]


def advice(forecasts: Sequence[Forecast], traffic: RecentTraffic, plan: Plan, policy: Policy) -> list[str]:
    """Say what to change, a sentence each; nothing where nothing is worth it."""
    found = []
    first = plan.steps[0].weight_bp / 10_000
    by_name = {each.name: each.outcome for each in forecasts}
    if by_name["healthy"].inconclusive > OFTEN_INCONCLUSIVE:
        found.append(
            f"a healthy version ends inconclusive in {by_name['healthy'].inconclusive:.0%} of rollouts: raise "
            f"plan.deadline or the first steps' weights ({first * 100:.3g} % are {traffic.rate * first:.2g} requests a "
            "second)"
        )
    if policy.error_max is not None and traffic.error_ratio > policy.error_max * NEAR_THE_BOUND:
        found.append(
            f"the service itself fails {traffic.error_ratio:.2%} of its requests, near the {policy.error_max:.2%} that "
            "the SLO allows: loosen the SLO, or repair the service first"
        )
    caught = by_name["5 % more errors"].rollback_s
    if policy.error_max is not None and (caught is None or caught[0] > SLOW_TO_CATCH_S):
        took = "never" if caught is None else f"only after {caught[0]:.0f} s"
        found.append(f"5 % more errors are caught {took}: start with more than {first * 100:.3g} %")
    left_out = [share.name for share in policy.shares if share.max_share is not None]
    if left_out:
        found.append(f"not simulated, so none of this counts {', '.join(left_out)}: it can only take longer")
    if policy.latency_threshold_ms is None:
        found.append("latency is not judged: give the service a latency SLO")
    return found


def main(
    *,
    service: str,
    traffic: RecentTraffic,
    plan: Plan,
    policy: Policy,
    replications: int = REPLICATIONS,
    seed: int = 1,
    write: Callable[[dict[str, Any]], None] | None = None,
    json_file: Path | None = None,
) -> int:
    """Print what a rollout of *service* would be like; with *write*, hand it to that instead.

    Raises:
        InvalidInputError: There is no traffic to go by.
    """
    if traffic.rate <= 0:
        raise InvalidInputError(
            "traffic", f"{service} has had no requests of late", "say what it will have: --rate, --errors, --p50, --p95"
        )
    forecasts = forecast(traffic, plan, policy, replications=replications, seed=seed)
    document = {
        "service": service,
        "traffic": {**dataclasses.asdict(traffic), "rate": traffic.rate, "error_ratio": traffic.error_ratio},
        "forecasts": [_row(each) for each in forecasts],
        "advice": advice(forecasts, traffic, plan, policy),
    }
    if json_file is not None:
        json_file.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    if write is not None:
        write(document)
    else:
        _print(document, forecasts)
    return 0


def _row(each: Forecast) -> dict[str, Any]:
    outcome = each.outcome
    back, on = outcome.rollback_s or (None, None), outcome.promotion_s or (None, None)
    return {
        "version": each.name,
        "rolled_back": outcome.rolled_back,
        "promoted": outcome.promoted,
        "inconclusive": outcome.inconclusive,
        "rollback_s_median": back[0],
        "rollback_s_95": back[1],
        "promotion_s_median": on[0],
        "promotion_s_95": on[1],
        "harmed_requests": outcome.harmed,
    }


def _print(document: Mapping[str, Any], forecasts: Sequence[Forecast]) -> None:
    traffic = document["traffic"]
    spans = [f"{traffic[key]:.0f} ms {name}" for key, name in (("p50_ms", "p50"), ("p95_ms", "p95")) if traffic[key]]
    words = ", ".join([f"{traffic['rate']:.3g} requests/s", f"{traffic['error_ratio']:.2%} errors", *spans])
    table = Table(title=f"{document['service']}: {words}", title_justify="left")
    table.add_column("a version with", no_wrap=True)
    for name in ("rolled back", "promoted", "inconclusive", "s to rollback", "s to promotion", "harmed requests"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in forecasts:
        outcome = each.outcome
        table.add_row(
            each.name,
            *(f"{share:.0%}" for share in (outcome.rolled_back, outcome.promoted, outcome.inconclusive)),
            *(_span(span) for span in (outcome.rollback_s, outcome.promotion_s)),
            f"{outcome.harmed:.0f}",
        )
    console = Console()
    if not console.is_terminal:
        console.width = 140
    console.print(table)
    console.print("Seconds: median / 95 %. Simulated with the production judge.", style="dim")
    for sentence in document["advice"]:
        console.print(f"- {sentence}", markup=False, highlight=False, soft_wrap=True)


def _span(span: tuple[float, float] | None) -> str:
    return "" if span is None else f"{span[0]:.0f} / {span[1]:.0f}"
