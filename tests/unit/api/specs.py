"""Services of every shape, for properties that must hold for all of them."""

import dataclasses
import datetime as dt

from hypothesis import strategies as st

from controlplane.rollout.model import Plan, Step
from controlplane.rollout.slo import (
    ClientErrorSlo,
    ErrorRateSlo,
    LatencySlo,
    OnBreach,
    OnDrift,
    QualitySlo,
    RatioQuerySlo,
    Slo,
    Terms,
    ValueQuerySlo,
    judged,
)
from controlplane.traffic.model import (
    Endpoint,
    HeaderMatch,
    HeaderRule,
    HealthCheck,
    Listener,
    Mirror,
    ModelPin,
    Route,
    RouteMatch,
    ServiceSpec,
    Share,
    Split,
    Version,
)

NAMES = st.builds("{}{}".format, st.sampled_from(["a", "7", "v-1", "v_2", "x--"]), st.integers(0, 999))
PORTS = st.integers(1, 65535)
LETTERS = st.characters(codec="utf-8", exclude_categories=["C", "Z"], include_characters=" ")
"""Whatever `str.isprintable` is true of."""
PATHS = st.text(LETTERS, max_size=20).map(lambda rest: f"/{rest}")
VALUES = st.text(LETTERS, min_size=1, max_size=20)
HOSTS = st.one_of(NAMES.map(lambda name: f"{name}.example"), st.sampled_from(["10.0.0.1", "::1", "fe80::1:2"]))


def spans(least: dt.timedelta, most: dt.timedelta) -> st.SearchStrategy[dt.timedelta]:
    return st.timedeltas(least, most)


SECOND = dt.timedelta(seconds=1)
MILLISECOND = dt.timedelta(milliseconds=1)

CHECKS = st.builds(
    HealthCheck,
    path=PATHS,
    interval=spans(100 * MILLISECOND, 300 * SECOND),
    timeout=spans(100 * MILLISECOND, 300 * SECOND),
    healthy_threshold=st.integers(1, 100),
    unhealthy_threshold=st.integers(1, 100),
)
HEADERS = st.one_of(
    st.builds(HeaderMatch, NAMES),
    st.builds(HeaderMatch, NAMES, st.sampled_from([HeaderRule.EXACT, HeaderRule.REGEX]), VALUES),
)
MATCHES = st.builds(RouteMatch, PATHS, st.lists(HEADERS, max_size=2).map(tuple))
SHARES = st.floats(0.000001, 0.49)
TERMS = st.builds(
    Terms,
    on_breach=st.sampled_from(OnBreach),
    muted=st.booleans(),
    alpha=st.none() | st.floats(0.00001, 0.001),
    tolerance=st.none() | st.floats(1, 10),
    budget=st.floats(0, 1_000),
    quiet=spans(0 * SECOND, 3_600 * SECOND),
)
ANSWERS = st.lists(st.sampled_from(["5xx", "4xx", "429", "503", "grpc-14", "grpc-unavailable"]), min_size=1).map(tuple)
QUERIES = VALUES.map(lambda text: " ".join(f'rate({{version="$version"}} {text}'.split()))
INTERVALS = spans(SECOND, 300 * SECOND)
REQUEST_SLOS: st.SearchStrategy[Slo] = st.one_of(
    st.builds(ErrorRateSlo, NAMES, SHARES, ANSWERS, TERMS),
    st.builds(LatencySlo, NAMES, st.floats(1, 300_000), st.floats(0.5, 0.9999), TERMS),
)
CLIENT_SLOS = st.builds(ClientErrorSlo, NAMES, SHARES, ANSWERS, TERMS, st.none() | SHARES)
QUERY_SLOS: st.SearchStrategy[Slo] = st.one_of(
    st.builds(RatioQuerySlo, NAMES, QUERIES, QUERIES, SHARES, INTERVALS, TERMS),
    st.builds(
        ValueQuerySlo, NAMES, QUERIES, st.floats(0, 1e6), st.none() | st.floats(-1e6, 0), SHARES, INTERVALS, TERMS
    ),
)
QUALITY_SLOS: st.SearchStrategy[Slo] = st.builds(
    QualitySlo,
    NAMES,
    st.floats(0, 100),
    st.floats(0, 180),
    SHARES,
    st.floats(0, 1),
    st.sampled_from(OnDrift),
    st.sampled_from([0, 8, 66]),
    spans(60 * SECOND, 86_400 * SECOND),
    PATHS,
    st.builds(Terms, on_breach=st.sampled_from(OnBreach), muted=st.booleans()),
    st.floats(0, 10),
    st.booleans(),
)
OTHER_SLOS: st.SearchStrategy[Slo] = CLIENT_SLOS | QUERY_SLOS


@st.composite
def slo_lists(draw: st.DrawFn) -> tuple[Slo, ...]:
    """Draw objectives that can be judged together: each with a name of its own."""
    drawn = [
        *draw(st.lists(REQUEST_SLOS, min_size=1, max_size=2)),
        *draw(st.lists(CLIENT_SLOS, max_size=1)),
        *draw(st.lists(QUERY_SLOS, max_size=2)),
        *draw(st.lists(QUALITY_SLOS, max_size=1)),
    ]
    return tuple(dataclasses.replace(slo, name=f"{slo.name}-{place}") for place, slo in enumerate(drawn))


SLOS = slo_lists()


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Draw a plan whose weights grow to 100 %."""
    weights = [*sorted(draw(st.sets(st.integers(1, 9_999), max_size=5))), 10_000]
    steps = tuple(
        Step(weight, draw(spans(0 * SECOND, 60 * SECOND)), draw(st.booleans()), draw(st.sampled_from([None, False])))
        for weight in weights
    )
    return Plan(steps, draw(spans(SECOND, 86_400 * SECOND)), draw(spans(SECOND, 86_400 * SECOND)))


@st.composite
def splits(draw: st.DrawFn, names: list[str]) -> Split:
    """Draw a split over some of *names*."""
    chosen = draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True))
    borders = sorted(draw(st.lists(st.integers(0, 10_000), min_size=len(chosen) - 1, max_size=len(chosen) - 1)))
    edges = [0, *borders, 10_000]
    return tuple(Share(name, high - low) for name, low, high in zip(chosen, edges[:-1], edges[1:], strict=True))


PINS = st.builds(
    ModelPin,
    st.text(LETTERS, max_size=19).map("m{}".format),
    st.integers(0, 2**256 - 1).map("sha256:{:064x}".format),
    st.sampled_from(["", "1.2.3", "1.2.3+gabc"]),
)


@st.composite
def services(draw: st.DrawFn) -> ServiceSpec:
    """Draw a service."""
    names = draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
    clusters = draw(st.lists(NAMES, min_size=len(names), max_size=len(names), unique=True))
    versions = tuple(
        Version(
            name,
            cluster,
            tuple(draw(st.lists(st.builds(Endpoint, HOSTS, PORTS), max_size=2, unique=True))),
            draw(CHECKS),
            draw(spans(MILLISECOND, 300 * SECOND)),
            draw(st.none() | PINS),
        )
        for name, cluster in zip(names, clusters, strict=True)
    )
    target = draw(st.sampled_from(["", "a", "shop.example:8080", "x_y-z"]))
    if target:  # such workers are not asked for a path
        versions = tuple(
            dataclasses.replace(
                version,
                health_check=dataclasses.replace(version.health_check, path=HealthCheck().path),
                model=None,
            )
            for version in versions
        )
    timeouts = spans(MILLISECOND, 3600 * SECOND)
    pinned = draw(
        st.lists(
            st.builds(Route, NAMES.map(lambda name: f"p{name}"), MATCHES, st.sampled_from(names), timeouts),
            max_size=2,
            unique_by=lambda route: route.name,
        )
    )
    return ServiceSpec(
        name=draw(NAMES),
        listener=Listener(
            draw(NAMES),
            draw(st.sampled_from(["0.0.0.0", "127.0.0.1", "::"])),
            draw(PORTS),
            draw(NAMES),
            draw(st.sampled_from(["", "edge", "api.example.org"])),
        ),
        virtual_host=draw(NAMES),
        route_config=draw(NAMES),
        versions=versions,
        routes=(*pinned, Route("rest", draw(MATCHES), None, draw(timeouts))),
        initial_split=draw(splits(names)),
        slos=judged(draw(SLOS)) if target else draw(SLOS),  # photos go over HTTP
        plan=draw(plans()),
        domains=tuple(draw(st.lists(st.sampled_from(["*", "a.example", "b.example"]), min_size=1, unique=True))),
        groups=tuple(draw(st.lists(NAMES, max_size=2, unique=True))),
        config_canary=draw(timeouts),
        grpc_target=target,
        draw_header="" if target else draw(st.sampled_from(["", "x-draw"])),
        mirror=None if target else draw(st.none() | st.builds(Mirror, st.just(names[0]), st.integers(1, 10_000))),
    )
