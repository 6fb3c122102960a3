"""The work of `hueshift quality compare`: finds the versions, asks them, and prints what came of it."""

import asyncio
import dataclasses
import datetime as dt
import pathlib
import sys
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import httpx
from rich.console import Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from controlplane.api import units
from controlplane.api.answers import ServiceView
from controlplane.api.documents import spec_from
from controlplane.cli import output
from controlplane.cli.client import is_local
from controlplane.cli.formats import Format, for_programs
from controlplane.cli.surroundings import Surroundings
from controlplane.cli.waiting import spinner
from controlplane.clock import SystemClock
from controlplane.errors import InvalidInputError, NotFoundError
from controlplane.quality import gate, photoset
from controlplane.quality.answers import Answer, Target
from controlplane.quality.features import FEATURE_DISTANCE, LPIPS
from controlplane.quality.live import MAX_PAIRS, Collector, LivePairs, read_token
from controlplane.quality.photoset import Photo
from controlplane.quality.sanity import Unusable
from controlplane.quality.verdict import Judgement, Limits, Verdict, by_badness
from controlplane.traffic.model import HeaderRule, ServiceSpec

STYLES: Final = {Verdict.OK: "green", Verdict.DRIFT: "yellow", Verdict.BLOCK: "red"}
PICTURES_SHOWN: Final = 10
NOT_LOOKED: Final = "the feature distance was left out: it needs the package onnxruntime"


@dataclasses.dataclass(frozen=True, slots=True)
class Live:
    """That live requests are wanted: for how long they are collected, and the workers' token."""

    span: dt.timedelta
    token: str = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the command line asks for."""

    names: tuple[str, str]
    service: str | None
    through: str | None
    path: str
    photos: pathlib.Path | None
    strata: tuple[str, ...]
    out: pathlib.Path
    parallel: int
    timeout: dt.timedelta
    limits: Limits
    lpips: pathlib.Path | None
    live: Live | None
    seed: int

    @property
    def labels(self) -> tuple[str, str]:
        """What the versions are called in sentences: addresses without their scheme."""
        old, new = (name.partition("://")[2] or name for name in self.names)
        return old.rstrip("/"), new.rstrip("/")


def read_timeout(text: str) -> dt.timedelta:
    """Return the span that --timeout names.

    Raises:
        InvalidInputError: It is none.
    """
    try:
        return units.parse_span(text)
    except units.UnitError as exc:
        raise InvalidInputError("--timeout", exc.problem, exc.fix) from exc


def read_live(minutes: float, token_file: pathlib.Path | None) -> Live:
    """Return what --live and its two options ask for.

    Raises:
        InvalidInputError: There is no token.
    """
    if token_file is None:
        raise InvalidInputError("--sample-token-file", "is missing", "name the file that the workers were started with")
    return Live(dt.timedelta(minutes=minutes), read_token(token_file, field="--sample-token-file"))


def read_limits(*, chroma: str | None, **given: float | None) -> Limits:
    """Return the owner's limits: what is *given*, *chroma* as a percentage, and the defaults for the rest.

    Raises:
        InvalidInputError: *chroma* is no share.
    """
    limits = {name: value for name, value in given.items() if value is not None}
    if chroma is not None:
        try:
            limits["chroma"] = float(units.parse_ratio(chroma))
        except units.UnitError as exc:
            raise InvalidInputError("--chroma", exc.problem, exc.fix) from exc
    return dataclasses.replace(Limits(), **limits)  # type: ignore[arg-type] # all of these are floats


def run(surroundings: Surroundings, wanted: Wanted, *, form: Format) -> Verdict:
    """Compare, write the files, print, and return the verdict.

    Raises:
        InvalidInputError: The photos or a version cannot be found as they are named.
        TooFewPairsError: The old version gives too few pictures to compare with.
        UnavailableError: Nothing answers where a version should be.
    """
    meters = gate.find_meters(wanted.lpips)
    if wanted.live is None:
        photos, answers = _ask_both(surroundings, wanted)
        with spinner("comparing pictures", color=surroundings.color):
            judgement = gate.weigh(wanted.labels, photos, answers, wanted.limits, meters=meters, seed=wanted.seed)
    else:
        pairs = _collect_live(surroundings, wanted, wanted.live)
        photos, answers = pairs.photos, (list(pairs.old), list(pairs.new))
        with spinner("comparing pictures", color=surroundings.color):
            judgement = gate.weigh_live(wanted.labels, pairs, wanted.limits, meters=meters, seed=wanted.seed)
    if not meters:
        judgement = dataclasses.replace(judgement, notes=(*judgement.notes, NOT_LOOKED))
    data = gate.write_files(
        wanted.out, judgement, photos, answers, names=wanted.names, limits=wanted.limits, seed=wanted.seed
    )
    if for_programs(form):
        output.print_data(data, form)
    else:
        output.print_page(_page(judgement, wanted, photos, answers), color=surroundings.color)
    return judgement.verdict


def _ask_both(
    surroundings: Surroundings, wanted: Wanted
) -> tuple[tuple[Photo, ...], tuple[list[Answer], list[Answer]]]:
    """Send the fixed photos to both versions."""
    if wanted.photos is not None and wanted.strata:
        raise InvalidInputError("--strata", "chooses among the shipped photos", "leave it or --photos out")
    photos = photoset.load_folder(wanted.photos) if wanted.photos else photoset.load_shipped(wanted.strata)
    old_source, new_source = find_sources(surroundings, wanted)
    with _progress(surroundings, wanted, len(photos)) as steps:

        async def ask() -> tuple[list[Answer], list[Answer]]:
            sides = []
            for source, step in zip((old_source, new_source), steps, strict=True):
                # Their own connections each: a version must not wait for what the other's workers hold on to.
                async with _client(surroundings, source, wanted.timeout) as client:
                    clock = SystemClock()
                    sides.append(
                        await gate.collect(
                            source, photos, client=client, clock=clock, parallel=wanted.parallel, progress=step
                        )
                    )
            return sides[0], sides[1]

        return photos, asyncio.run(ask())


def _collect_live(surroundings: Surroundings, wanted: Wanted, live: Live) -> LivePairs:
    """Fetch what both versions' workers kept of the same requests."""
    for option, value in (("--photos", wanted.photos), ("--strata", wanted.strata), ("--through", wanted.through)):
        if value:
            raise InvalidInputError(
                option, "is for photos that are sent, and --live sends none", "leave one of them out"
            )
    old, new = find_sources(surroundings, wanted)
    if not isinstance(old, Target) or not isinstance(new, Target):
        raise InvalidInputError("--live", "asks workers, not folders", "name two versions of --service")
    console = output.console(sys.stderr, color=surroundings.color)
    columns = (TextColumn("pairs of live requests"), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=MAX_PAIRS)

        async def collect() -> LivePairs:
            async with _client(surroundings, old, wanted.timeout) as client:
                collector = Collector(
                    old,
                    new,
                    path=wanted.path,
                    token=live.token,
                    client=client,
                    clock=SystemClock(),
                    progress=lambda count: bar.update(task, completed=count),
                )
                return await collector.collect(live.span)

        return asyncio.run(collect())


# -- where the versions are --------------------------------------------------------------------------------------------


def find_sources(surroundings: Surroundings, wanted: Wanted) -> tuple[gate.Source, gate.Source]:
    """Return where each version's pictures come from.

    Raises:
        InvalidInputError: A name is neither an address, nor a folder, nor a version of the service.
        NotFoundError: The service has no such version.
    """
    if not wanted.path.startswith("/"):
        raise InvalidInputError("--path", f"{wanted.path!r} is no path", "start it with /")
    spec = None
    if wanted.service is not None:
        with surroundings.client() as client:
            spec = spec_from(client.get(ServiceView, "services", wanted.service).document)
    old, new = (_find(field, name, wanted, spec) for field, name in zip(("OLD", "NEW"), wanted.names, strict=True))
    if old == new:
        raise InvalidInputError("NEW", "is the same as OLD", "name two versions")
    return old, new


def _find(field: str, name: str, wanted: Wanted, spec: ServiceSpec | None) -> gate.Source:
    if "://" in name:
        parts = urllib.parse.urlsplit(name)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise InvalidInputError(field, f"{name!r} is not an HTTP address", "write it like http://127.0.0.1:8083")
        return Target(urls=(name if parts.path not in {"", "/"} else name.rstrip("/") + wanted.path,))
    if spec is not None:
        return _pinned(name, wanted, spec) if wanted.through else _workers(name, wanted, spec)
    if pathlib.Path(name).is_dir():
        return pathlib.Path(name)
    raise InvalidInputError(
        field, f"{name!r} is neither an address nor a folder", "add --service NAME if it is a version of a service"
    )


def _workers(name: str, wanted: Wanted, spec: ServiceSpec) -> Target:
    if spec.grpc_target:
        raise InvalidInputError("--service", f"the workers of {spec.name} speak gRPC", "name addresses that take HTTP")
    for version in spec.versions:
        if version.name == name and version.endpoints:
            hosts = [
                f"[{one.host}]:{one.port}" if ":" in one.host else f"{one.host}:{one.port}" for one in version.endpoints
            ]
            return Target(urls=tuple(f"http://{host}{wanted.path}" for host in hosts))
    raise NotFoundError(f"version of {spec.name}", name, tuple(version.name for version in spec.versions))


def _pinned(name: str, wanted: Wanted, spec: ServiceSpec) -> Target:
    """The route to one version: its headers, and its path where it does not take the workers' usual one."""
    if name not in {version.name for version in spec.versions}:
        raise NotFoundError(f"version of {spec.name}", name, tuple(version.name for version in spec.versions))
    for route in spec.routes:
        if route.version != name or any(header.rule is HeaderRule.REGEX for header in route.match.headers):
            continue
        path = wanted.path if wanted.path.startswith(route.match.prefix) else route.match.prefix
        headers = {header.name: header.value or "1" for header in route.match.headers}
        return Target(urls=((wanted.through or "").rstrip("/") + path,), headers=headers)
    raise InvalidInputError(
        "--through",
        f"no route of {spec.name} pins {name} by header",
        "declare one, or leave --through out and ask the workers directly",
    )


def _client(surroundings: Surroundings, source: gate.Source, timeout: dt.timedelta) -> httpx.AsyncClient:
    url = source.urls[0] if isinstance(source, Target) else ""
    return httpx.AsyncClient(
        timeout=timeout.total_seconds(), transport=surroundings.photo_transport, trust_env=not is_local(url)
    )


# -- what is printed ---------------------------------------------------------------------------------------------------


@contextmanager
def _progress(surroundings: Surroundings, wanted: Wanted, count: int) -> Iterator[list[Callable[[], None]]]:
    """Show on stderr how many photos each version has answered; nothing where that is no terminal."""
    console = output.console(sys.stderr, color=surroundings.color)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        tasks = [bars.add_task(output.clean(name), total=count) for name in wanted.labels]
        yield [lambda task=task: bars.advance(task) for task in tasks]  # type: ignore[misc] # binds each task


def _page(
    judgement: Judgement, wanted: Wanted, photos: tuple[Photo, ...], answers: tuple[list[Answer], list[Answer]]
) -> Group:
    head = Text(output.clean(judgement.sentence), style=STYLES[judgement.verdict])
    reasons = [Text(f"  {finding.verdict}: {output.clean(finding.words)}") for finding in judgement.findings[1:]]
    notes = [Text(output.clean(note), style="yellow") for note in (*judgement.notes, *_same_name(answers))]
    measures = output.new_table("MEASURE", "VALUE", "95 % INTERVAL")
    for name, interval in judgement.measures.items():
        measures.add_row(name, f"{interval.value:.3g}", f"{interval.low:.3g} to {interval.high:.3g}")
    for name, interval in judgement.strata.items():
        measures.add_row(f"delta_e, {name}", f"{interval.value:.3g}", f"{interval.low:.3g} to {interval.high:.3g}")
    looks = [name for name in (FEATURE_DISTANCE, LPIPS) if name in judgement.measures]
    columns = ("DELTA E", "P95", "HUE", "CHROMA", "SSIM AB", "DL", *(name.split("_")[0].upper() for name in looks))
    table = output.new_table("PICTURE", "KIND", *columns, "FLAWS")
    for place, case in enumerate(by_badness(judgement.cases)[:PICTURES_SHOWN]):
        pair, view = case.pair, case.new
        figures = ["-"] * len(columns)
        if pair is not None and not isinstance(view, Unusable):
            ratio = f"{pair.old_chroma:.1f} → {pair.new_chroma:.1f}"
            figures = [f"{pair.delta_e:.1f}", f"{pair.delta_e_p95:.1f}", f"{pair.hue_deg:.0f}°", ratio]
            figures += [f"{pair.ssim_ab:.2f}", f"{view.lightness:.1f}"]
            figures += [f"{pair.distances[name]:.2f}" for name in looks]
        flaws = ", ".join(case.new_flaws) or "-"
        table.add_row(("▲ " if place < len(judgement.worst) else "  ") + case.name, case.stratum, *figures, flaws)
    files = f"{len(photos)} photos; all figures and pictures: {wanted.out / gate.REPORT}, {wanted.out / gate.SHEET}"
    return Group(head, *reasons, *notes, "", measures, "", table, "", files)


def _same_name(answers: tuple[list[Answer], list[Answer]]) -> list[str]:
    """What should make a person look twice: two versions whose workers call themselves the same."""
    old, new = ({answer.said for answer in side if answer.said} for side in answers)
    if not old & new:
        return []
    return [f"both versions' workers say that they are {', '.join(sorted(old & new))}: are these two versions?"]
