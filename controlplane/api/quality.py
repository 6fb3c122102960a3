"""Comparisons of both versions' pictures: which there were, what each measured, and the worst pictures to look at."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from controlplane.api.access import Reader, UseParts
from controlplane.api.quality_answers import MeasureView, QualityReportView, QualityRunView, WorstPictureView
from controlplane.api.routing import ApiRoute
from controlplane.ports import QualityStore, Rollout, RolloutId
from controlplane.rollout.quality import QualityRun
from controlplane.rollout.slo import quality_slo

router = APIRouter(prefix="/v1/rollouts/{rollout}/quality", tags=["rollouts"], route_class=ApiRoute)

Id = Annotated[str, Path(description="The rollout's id, for example colorize-7.", max_length=80)]
Number = Annotated[int, Path(description="The comparison's number in its rollout.", ge=1, le=1_000_000)]


@router.get("")
async def list_comparisons(
    rollout: Id, parts: UseParts, _: Reader, limit: Annotated[int, Query(ge=1, le=200)] = 20
) -> list[QualityRunView]:
    """List the comparisons of a rollout's pictures, newest first, as far as they are kept."""
    found = await parts.store.load(RolloutId(rollout))
    return [quality_view(run) for run in await parts.store.load_quality_runs(found.id, limit=limit)]


@router.get("/{number}")
async def show_comparison(rollout: Id, number: Number, parts: UseParts, _: Reader) -> QualityReportView:
    """Show everything that a comparison measured."""
    found = await parts.store.load_quality_report((await parts.store.load(RolloutId(rollout))).id, number)
    worst = [
        WorstPictureView(place=place, name=name, words=words)
        for place, (name, words) in enumerate(found.worst, start=1)
    ]
    return QualityReportView(**quality_view(found.run).model_dump(), report=dict(found.report), worst=worst)


@router.get("/{number}/pictures/{place}", response_class=Response)
async def show_picture(
    rollout: Id,
    number: Number,
    place: Annotated[int, Path(description="1 is the worst.", ge=1, le=3)],
    parts: UseParts,
    _: Reader,
) -> Response:
    """Show one of the worst pictures, a JPEG: the photo, the old version's picture and the new one's."""
    found = await parts.store.load_worst_picture(RolloutId(rollout), number, place)
    return Response(found.jpeg, media_type="image/jpeg")


async def newest_comparisons(store: QualityStore, rollout: Rollout | None) -> list[QualityRunView]:
    """Return the last verdict on a rollout's pictures with what was measured, after a run that has none, if any."""
    if rollout is None or quality_slo(rollout.slos) is None:
        return []
    views = []
    for run in await store.load_quality_runs(rollout.id):
        measures = {}
        if run.verdict is not None:
            report = (await store.load_quality_report(rollout.id, run.number)).report
            measures = {name: MeasureView(**values) for name, values in report.get("measures", {}).items()}
        views.append(quality_view(run).model_copy(update={"measures": measures}))
        if run.verdict is not None:
            break
    return views


def quality_view(run: QualityRun) -> QualityRunView:
    """Show a comparison."""
    return QualityRunView(
        number=run.number,
        status=run.status.value,
        verdict=run.verdict.value if run.verdict else None,
        words=run.words,
        at=run.at,
        ended_at=run.ended_at,
        old=run.old,
        new=run.new,
    )
