"""The port `PictureGate`: the shipped photos to the workers of two versions over HTTP, their pictures to a verdict.

Both versions are asked at the same time: the judge compares latencies of the same seconds, and what slows users down
must not fall on one version's. A version is blamed only for what its workers surely did: a photo that got no answer is
sent once more, to workers that answered others, since workers are replaced while they serve; one that was refused for
want of room is left out.
"""

import asyncio
import dataclasses
import datetime as dt
import json
import pathlib
from collections.abc import Sequence
from typing import Final

import httpx
from prometheus_client import CollectorRegistry

from controlplane.clock import Clock
from controlplane.errors import ControlPlaneError, UnavailableError
from controlplane.ports import Compared, VersionWorkers, WorstPicture
from controlplane.quality import photoset
from controlplane.quality.answers import Answer, Target
from controlplane.quality.gate import collect, find_meters, make_cases, weigh_live
from controlplane.quality.live import Collector, LivePairs, TooFewLivePairsError, read_token
from controlplane.quality.metrics import QualityMetrics
from controlplane.quality.photoset import Photo
from controlplane.quality.report import as_data
from controlplane.quality.sanity import Flaw, Unusable
from controlplane.quality.sheet import draw_strip
from controlplane.quality.verdict import MIN_PAIRS, WORST, Case, Limits, by_badness, judge
from controlplane.rollout.quality import QualityVerdict
from controlplane.rollout.slo import QualitySlo

PARALLEL: Final = 1
"""Photos under way at once to each version: workers have users besides."""
HEADERS: Final = {"x-priority": "bulk"}
"""Our workers let people go first who come a little later."""
PICTURE_TIMEOUT: Final = httpx.Timeout(60, connect=5)
LONGEST: Final = dt.timedelta(minutes=30)
TOKEN_SETTING: Final = "HUESHIFT_SAMPLE_TOKEN_FILE"  # noqa: S105 - the name of a setting
NO_TOKEN: Final = f"live requests: no token of the workers' samples is known; set {TOKEN_SETTING}"
BY_SEVERITY: Final = (QualityVerdict.OK, QualityVerdict.DRIFT, QualityVerdict.BLOCK)
SECOND_TRY_AFTER: Final = dt.timedelta(seconds=2)


class HttpGate:
    """Compares pictures over HTTP.

    Args:
        clock: For the pauses that busy workers ask for.
        metrics: Our own; into a registry of nobody's by default.
        sample_token_file: What opens the workers' samples of live requests; read each time, so that it may be renewed.
        transport: Another way to the workers than a socket.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        metrics: QualityMetrics | None = None,
        sample_token_file: pathlib.Path | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._clock = clock
        self._sample_token_file = sample_token_file
        self._metrics = metrics or QualityMetrics(CollectorRegistry())
        self._transport = transport

    async def compare(self, old: VersionWorkers, new: VersionWorkers, slo: QualitySlo) -> Compared:
        began = self._clock.steady()
        verdict = "unknown"
        try:
            async with asyncio.timeout(LONGEST.total_seconds()):
                compared = await self._compare(old, new, slo)
            verdict = compared.verdict.value
        except TimeoutError as exc:
            raise UnavailableError(f"it took longer than {LONGEST.total_seconds() / 60:.0f} min") from exc
        finally:
            self._metrics.runs.labels(verdict).inc()
            self._metrics.seconds.observe(self._clock.steady() - began)
        return compared

    async def _compare(self, old: VersionWorkers, new: VersionWorkers, slo: QualitySlo) -> Compared:
        photos = await asyncio.to_thread(choose_photos, slo.photos)
        mine, others = await self._ask_both((old, new), slo.path, photos)
        kept = [place for place in range(len(photos)) if not mine[place].is_busy and not others[place].is_busy]
        if len(kept) < min(len(photos), MIN_PAIRS):
            raise _too_busy((old, new), (mine, others))
        photos = [photos[place] for place in kept]
        answers = [mine[place] for place in kept], [others[place] for place in kept]
        names = old.name, new.name
        compared = await asyncio.to_thread(_weigh, names, photos, answers, limits_of(slo))
        if not slo.live:
            return compared
        pairs = await self._collect_live(_alive(old, mine), _alive(new, others), slo.path)
        return await asyncio.to_thread(_with_live, compared, names, pairs, limits_of(slo))

    async def _collect_live(self, old: Sequence[str], new: Sequence[str], path: str) -> LivePairs:
        """Return what the workers of both versions have kept of the same mirrored requests until now."""
        if self._sample_token_file is None:
            raise UnavailableError(NO_TOKEN)
        async with httpx.AsyncClient(timeout=PICTURE_TIMEOUT, transport=self._transport, trust_env=False) as client:
            try:
                collector = Collector(
                    Target(urls=tuple(old)),
                    Target(urls=tuple(new)),
                    path=path,
                    token=read_token(self._sample_token_file, field=TOKEN_SETTING),
                    client=client,
                    clock=self._clock,
                )
                return await collector.collect(dt.timedelta(0))
            except ControlPlaneError as exc:
                raise UnavailableError(f"live requests: {exc}") from exc

    async def _ask_both(
        self, versions: tuple[VersionWorkers, VersionWorkers], path: str, photos: Sequence[Photo]
    ) -> list[list[Answer]]:
        try:
            async with asyncio.TaskGroup() as tasks:
                asked = [tasks.create_task(self._ask(version, path, photos)) for version in versions]
        except ExceptionGroup as failures:
            # Without the one version's pictures, nobody needs the other's: they are not asked for any more.
            refused = failures.subgroup(UnavailableError)
            if refused is None:
                raise
            raise refused.exceptions[0] from failures
        return [task.result() for task in asked]

    async def _ask(self, version: VersionWorkers, path: str, photos: Sequence[Photo]) -> list[Answer]:
        answers = await self._send(version, version.workers, path, photos)
        again = [place for place, answer in enumerate(answers) if _is_missing(answer)]
        if again:
            await self._clock.sleep(SECOND_TRY_AFTER)
            second = await self._send(version, _alive(version, answers), path, [photos[place] for place in again])
            for place, answer in zip(again, second, strict=True):
                answers[place] = answer
        return answers

    async def _send(
        self, version: VersionWorkers, workers: Sequence[str], path: str, photos: Sequence[Photo]
    ) -> list[Answer]:
        target = Target(urls=tuple(f"{worker}{path}" for worker in workers), headers=HEADERS)
        # Proxies of the environment are for the way out, and workers are within reach. Each version has connections of
        # its own: it must not wait for what the other's workers hold on to.
        async with httpx.AsyncClient(timeout=PICTURE_TIMEOUT, transport=self._transport, trust_env=False) as client:
            try:
                return await collect(
                    target, photos, client=client, clock=self._clock, parallel=PARALLEL, progress=lambda: None
                )
            except UnavailableError as exc:
                raise UnavailableError(f"{version.name}: {exc}") from exc


def choose_photos(count: int) -> list[Photo]:
    """Return *count* of the shipped photos, evenly from each kind; all of them for 0 or more than there are."""
    photos = photoset.load_shipped()
    if not 0 < count < len(photos):
        return list(photos)
    # The table is sorted by kind, so an even pace through it takes of each kind as its share is.
    return [photos[place * len(photos) // count] for place in range(count)]


def limits_of(slo: QualitySlo) -> Limits:
    """Return what the owner allows."""
    return Limits(
        delta_e=slo.delta_e, hue_deg=slo.hue_deg, chroma=slo.chroma, ssim_ab=slo.ssim, feature_distance=slo.features
    )


def _is_missing(answer: Answer) -> bool:
    return isinstance(answer.content, Unusable) and answer.content.flaw is Flaw.MISSING


def _alive(version: VersionWorkers, answers: Sequence[Answer]) -> tuple[str, ...]:
    """Return the workers that answered any photo (they took turns); all where none did. Envoy leaves out dead ones."""
    count = len(version.workers)
    alive = [
        worker
        for place, worker in enumerate(version.workers)
        if not all(_is_missing(answer) for answer in answers[place::count])
    ]
    return tuple(alive) or version.workers


def _too_busy(
    versions: tuple[VersionWorkers, VersionWorkers], answers: tuple[list[Answer], list[Answer]]
) -> UnavailableError:
    counts = [sum(answer.is_busy for answer in side) for side in answers]
    worst = 0 if counts[0] > counts[1] else 1
    return UnavailableError(
        f"the workers of {versions[worst].name} were too busy for {counts[worst]} of {len(answers[worst])} photos; "
        "give them more room, or fewer photos with photos: 12"
    )


def _weigh(
    names: tuple[str, str], photos: Sequence[Photo], answers: tuple[list[Answer], list[Answer]], limits: Limits
) -> Compared:
    """Decide, and draw the worst pictures. Seconds of work, for a thread."""
    cases = make_cases(photos, answers, limits, find_meters())
    judgement = judge(*names, cases, limits)
    old, new = (_name_of(side) for side in answers)
    data = as_data(judgement, old=names[0], new=names[1], limits=limits, seed=0)
    report = json.loads(json.dumps(data | {"workers_say": {"old": old, "new": new}}))
    return Compared(
        verdict=QualityVerdict(judgement.verdict.value),
        sentence=judgement.sentence,
        report=report,
        worst=tuple(_draw(case, photos, answers) for case in by_badness(judgement.cases)[:WORST]),
        old=", ".join(old),
        new=", ".join(new),
    )


def _with_live(compared: Compared, names: tuple[str, str], pairs: LivePairs, limits: Limits) -> Compared:
    """Let the live requests speak too: the worse of the two verdicts counts, and too few pairs are no verdict.

    Pictures of theirs are people's own: none is drawn, and the report names them by the ids of their requests.
    """
    try:
        judgement = weigh_live(names, pairs, limits, meters=find_meters())
    except TooFewLivePairsError as exc:
        return dataclasses.replace(compared, report={**compared.report, "live": {"words": str(exc)}})
    data = as_data(judgement, old=names[0], new=names[1], limits=limits, seed=0)
    both = dataclasses.replace(compared, report={**compared.report, "live": json.loads(json.dumps(data))})
    verdict = QualityVerdict(judgement.verdict.value)
    if BY_SEVERITY.index(verdict) <= BY_SEVERITY.index(compared.verdict):
        return both
    return dataclasses.replace(both, verdict=verdict, sentence=f"live requests: {judgement.sentence}")


def _name_of(answers: Sequence[Answer]) -> list[str]:
    return sorted({answer.said for answer in answers if answer.said})


def _draw(case: Case, photos: Sequence[Photo], answers: tuple[list[Answer], list[Answer]]) -> WorstPicture:
    place = next(place for place, photo in enumerate(photos) if photo.name == case.name)
    old, new = (side[place].content for side in answers)
    words = ", ".join(case.new_flaws) or (f"CIEDE2000 {case.pair.delta_e:.1f}" if case.pair else "")
    jpeg = draw_strip(
        case,
        photos[place].data,
        old if isinstance(old, bytes) else None,
        new if isinstance(new, bytes) else None,
    )
    return WorstPicture(case.name, words, jpeg)
