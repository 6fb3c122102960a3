"""Values for tests, sound by default: each builder takes what a test is about and fills in the rest."""

import dataclasses
import datetime as dt
from collections.abc import Mapping, Sequence

from controlplane.auth.ports import ApiKey
from controlplane.ports import (
    Beat,
    Change,
    ClusterTick,
    NewRollout,
    NodeStatus,
    Rollout,
    RolloutId,
    SnapshotRecord,
    SnapshotStatus,
    TelemetryBatch,
    TypeStatus,
)
from controlplane.rollout.model import Plan, Preparing, State, Step
from controlplane.rollout.recorded import JudgedTick, Look
from controlplane.rollout.slo import ErrorRateSlo, LatencySlo, Slo
from controlplane.rollout.verdict import Exposure, Verdict
from controlplane.rollout.windows import BUCKETS, TickWindow, VersionTick
from controlplane.traffic.model import (
    Endpoint,
    HeaderMatch,
    HeaderRule,
    Listener,
    ModelPin,
    Route,
    RouteMatch,
    ServiceSpec,
    Share,
    Split,
    Version,
)
from controlplane.traffic.provenance import ModelReport, ServedModel

NOW = dt.datetime(2026, 11, 22, 12, 30, 15, 123456, tzinfo=dt.UTC)
TICK = int(NOW.timestamp())

DEFAULT_SLOS: tuple[Slo, ...] = (
    ErrorRateSlo("errors", max_ratio=0.01),
    LatencySlo("latency", threshold_ms=400, quantile=0.95),
)


def seconds(count: float) -> dt.timedelta:
    """Return a span."""
    return dt.timedelta(seconds=count)


# -- catalogue ---------------------------------------------------------------------------------------------------------


def make_split(**weights_bp: int) -> Split:
    """Return a split: ``make_split(v1=9500, v2=500)``."""
    return tuple(Share(version, weight_bp) for version, weight_bp in weights_bp.items())


def make_version(name: str, *, service: str = "colorize", endpoints: Sequence[Endpoint] | None = None) -> Version:
    """Return a version with one worker on loopback; its cluster is called ``colorize_v1``."""
    workers = (Endpoint("127.0.0.1", 8083),) if endpoints is None else tuple(endpoints)
    return Version(name=name, cluster=f"{service}_{name}", endpoints=workers)


def make_pin(name: str = "v2", *, digit: str = "a", code: str = "") -> ModelPin:
    """Return the pin of a model whose checksum is one *digit* again and again."""
    return ModelPin(name, f"sha256:{digit * 64}", code)


def make_report(
    address: str = "127.0.0.1:8083",
    *,
    cluster: str = "colorize_v2",
    pin: ModelPin | None = None,
    words: str = "",
    at: dt.datetime | None = NOW,
) -> ModelReport:
    """Return what a worker says that serves what *pin* names, by default `make_pin`."""
    pin = pin or make_pin()
    models = (ServedModel(pin.name, pin.checksum, "1", "lab-colorizer", "onnx"),) if at else ()
    return ModelReport(cluster, address, models, pin.code_version or "1.0", words, at)


def pinned(spec: ServiceSpec, version: str = "v2", pin: ModelPin | None = None) -> ServiceSpec:
    """Return *spec* with one version's model pinned, by default to `make_pin`."""
    versions = [
        dataclasses.replace(each, model=pin or make_pin()) if each.name == version else each for each in spec.versions
    ]
    return dataclasses.replace(spec, versions=tuple(versions))


def make_plan(*weights_bp: int, hold: dt.timedelta = dt.timedelta(seconds=30)) -> Plan:
    """Return a plan with these steps; without any, 5, 25, 50 and 100 %."""
    return Plan(tuple(Step(weight_bp, hold=hold) for weight_bp in weights_bp or (500, 2500, 5000, 10_000)))


def make_spec(
    name: str = "colorize",
    *,
    versions: Sequence[str] = ("v1", "v2"),
    port: int = 8080,
    split: Split | None = None,
    plan: Plan | None = None,
    slos: tuple[Slo, ...] = DEFAULT_SLOS,
) -> ServiceSpec:
    """Return a service whose first version has all traffic; services of different name and port do not collide."""
    return ServiceSpec(
        name=name,
        listener=Listener(f"{name}_listener", "127.0.0.1", port),
        virtual_host=f"{name}_host",
        route_config=f"{name}_routes",
        versions=tuple(make_version(version, service=name) for version in versions),
        routes=(
            Route(
                "pinned",
                RouteMatch("/repair", (HeaderMatch("x-version", HeaderRule.EXACT, versions[0]), HeaderMatch("x-pin"))),
                version=versions[0],
            ),
            Route("main", RouteMatch("/"), timeout=seconds(12.5)),
        ),
        initial_split=split or (Share(versions[0], 10_000),),
        slos=slos,
        plan=plan or make_plan(),
    )


# -- rollouts ----------------------------------------------------------------------------------------------------------


def make_new_rollout(
    service: str = "colorize", candidate: str = "v2", *, plan: Plan | None = None, why: str = "better blues"
) -> NewRollout:
    """Return what starts a rollout."""
    return NewRollout(service, candidate, plan or make_plan(), DEFAULT_SLOS, by="ada", why=why)


def make_rollout(state: State | None = None, *, service: str = "colorize", number: int = 1) -> Rollout:
    """Return a rollout of v1 to v2 that no store has seen."""
    plan = make_plan()
    return Rollout(
        id=RolloutId(f"{service}-{number}"),
        service=service,
        baseline="v1",
        candidate="v2",
        plan=plan,
        slos=DEFAULT_SLOS,
        state=state or Preparing(since=NOW),
        version=1,
        started_at=NOW,
        deadline_at=NOW + plan.deadline,
        by="ada",
        why="better blues",
    )


# -- fleet -------------------------------------------------------------------------------------------------------------


def make_node(
    node: str = "edge-1", *, replica: str = "one", left: dt.datetime | None = None, acked: str = "a1"
) -> NodeStatus:
    """Return an Envoy that runs version *acked* of all four resource types."""
    status = TypeStatus(sent=acked, acked=acked, acked_at=NOW)
    return NodeStatus(
        node=node,
        cluster="edge",
        replica=replica,
        variant="delta",
        connected_at=NOW,
        disconnected_at=left,
        types=dict.fromkeys(("cds", "eds", "lds", "rds"), status),
    )


def make_snapshot(
    version: str = "s1",
    *,
    status: SnapshotStatus = SnapshotStatus.PROPOSED,
    revisions: Mapping[str, int] | None = None,
    at: dt.datetime = NOW,
    group: str = "",
) -> SnapshotRecord:
    """Return a snapshot whose content is its version."""
    return SnapshotRecord(
        version=version,
        versions={"cds": f"{version}-c", "eds": "", "lds": f"{version}-l", "rds": f"{version}-r"},
        revisions={"colorize": 1} if revisions is None else dict(revisions),
        content=b"\x00" + version.encode(),
        status=status,
        words="",
        at=at,
        group=group,
    )


# -- telemetry ---------------------------------------------------------------------------------------------------------


def make_counts(
    completed: int = 0, *, errors: int = 0, started: int | None = None, active: int = 0, bucket: int = 60
) -> VersionTick:
    """Return one version's tick, all of its latencies in one bucket."""
    latency = tuple(completed if place == bucket else 0 for place in range(BUCKETS))
    return VersionTick(
        completed=completed,
        errors=errors,
        started=completed if started is None else started,
        active=active,
        latency=latency,
    )


def make_batch(
    source: str,
    *,
    tick: int = TICK,
    closed: bool = True,
    reporting: int = 1,
    silent: int = 0,
    **counts: VersionTick,
) -> TelemetryBatch:
    """Return one source's word on one tick: a beat, and counts by cluster."""
    return TelemetryBatch(
        source=source,
        ticks=tuple(ClusterTick(cluster, tick, sums) for cluster, sums in counts.items()),
        beats=(Beat(tick=tick, reporting=reporting, silent=silent, closed=closed),),
    )


def make_judged(
    tick: int = TICK,
    *,
    previous: int | None = None,
    look: Look = Look.WHOLE,
    verdict: Verdict = Verdict.HOLD,
    words: str = "5 % is held for 1 of at least 30 s",
) -> JudgedTick:
    """Return the record of a tick of a healthy candidate at 5 %; history has neither exposure nor words."""
    window = TickWindow(tick, make_counts(95, errors=1), make_counts(5, bucket=61))
    if look is Look.HISTORY:
        return JudgedTick(previous, window, look)
    exposure = Exposure(weight_bp=500, next_weight_bp=2500, min_hold_s=30.0, held_s=0.1)
    return JudgedTick(previous, window, look, exposure, (Verdict.ROLLBACK, Verdict.ADVANCE), verdict, words)


# -- keys --------------------------------------------------------------------------------------------------------------


def make_change(by: str = "ada", *, why: str = "", at: dt.datetime = NOW) -> Change:
    """Return who changes something."""
    return Change(by, why, at)


def make_key(name: str = "ada", *, digest: str = "d1", at: dt.datetime = NOW) -> ApiKey:
    """Return a live key from before there were grants."""
    return ApiKey(name=name, prefix="hs_abc", digest=digest, created_at=at)
