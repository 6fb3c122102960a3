"""Comparisons of pictures: begun as a row, ended once, told when the verdict is news, and gone with the telemetry."""

import dataclasses
import datetime as dt

import pytest

from controlplane.errors import ConflictError, NotFoundError
from controlplane.ports import Compared, QualityReport, Rollout, RolloutId, Store, WorstPicture
from controlplane.rollout.model import RollbackCause, RolledBack
from controlplane.rollout.quality import QualityRun, QualityVerdict, RunStatus
from controlplane.wake import Topic
from tests.builders import NOW, make_new_rollout, make_spec, seconds
from tests.contract.conftest import Ears

WORST = tuple(WorstPicture(f"фото {place}", "grey", bytes(range(256))) for place in (1, 2, 3))
GREY = Compared(QualityVerdict.BLOCK, "v2 is blocked: 灰", {"measures": {"delta_e": 1 / 3}}, WORST, "v1-a", "v2-b")
FINE = Compared(QualityVerdict.OK, "v2 is like v1", {"pictures": []})


@pytest.fixture
async def rollout(store: Store) -> Rollout:
    await store.apply(make_spec(), by="ada", why="", now=NOW)
    return await store.start(make_new_rollout(), key=None, now=NOW)


async def compare(store: Store, rollout: Rollout, compared: Compared, *, at: dt.datetime = NOW) -> QualityRun:
    run = ended(await store.begin_quality_run(rollout.id, now=at), compared)
    assert await store.end_quality_run(rollout.id, run, compared)
    return run


def ended(run: QualityRun, compared: Compared) -> QualityRun:
    return dataclasses.replace(
        run,
        status=RunStatus.DONE,
        ended_at=run.at + seconds(9),
        verdict=compared.verdict,
        words=compared.sentence,
        old=compared.old,
        new=compared.new,
    )


def failed(run: QualityRun) -> QualityRun:
    return dataclasses.replace(run, status=RunStatus.FAILED, ended_at=run.at + seconds(9), words="v2 does not answer")


async def test_a_comparison_is_read_back_whole(store: Store, rollout: Rollout) -> None:
    assert await store.load_quality_runs(rollout.id) == ()
    begun = await store.begin_quality_run(rollout.id, now=NOW)
    assert begun == QualityRun(1, NOW)
    assert await store.load_quality_runs(rollout.id) == (begun,)
    run = ended(begun, GREY)
    assert await store.end_quality_run(rollout.id, run, GREY)
    assert await store.load_quality_runs(rollout.id) == (run,)
    worst = tuple((each.name, each.words) for each in WORST)
    assert await store.load_quality_report(rollout.id, 1) == QualityReport(run, GREY.report, worst)
    assert await store.load_worst_picture(rollout.id, 1, 2) == WORST[1]


async def test_comparisons_are_numbered_and_listed_newest_first(store: Store, rollout: Rollout) -> None:
    runs = [await compare(store, rollout, each, at=NOW + seconds(60 * place)) for place, each in enumerate([FINE] * 3)]
    assert [run.number for run in runs] == [1, 2, 3]
    assert await store.load_quality_runs(rollout.id) == (runs[2], runs[1])
    assert await store.load_quality_runs(rollout.id, limit=9) == (runs[2], runs[1], runs[0])


async def test_one_that_came_to_nothing_is_begun_anew_in_its_place(store: Store, rollout: Rollout) -> None:
    fine = await compare(store, rollout, FINE)
    run = failed(await store.begin_quality_run(rollout.id, now=NOW + seconds(60)))
    assert await store.end_quality_run(rollout.id, run, None)
    assert await store.load_quality_runs(rollout.id) == (run, fine)
    again = await store.begin_quality_run(rollout.id, now=NOW + seconds(90))
    assert again == QualityRun(2, NOW + seconds(90))
    assert await store.load_quality_runs(rollout.id, limit=9) == (again, fine)


async def test_what_was_begun_anew_is_ended_by_whoever_began_it_last(store: Store, rollout: Rollout) -> None:
    """The first has lost the lease, or died and come back."""
    first = await store.begin_quality_run(rollout.id, now=NOW)
    second = await store.begin_quality_run(rollout.id, now=NOW + seconds(5))
    assert not await store.end_quality_run(rollout.id, ended(first, GREY), GREY)
    assert await store.load_quality_runs(rollout.id) == (second,)
    assert await store.end_quality_run(rollout.id, ended(second, FINE), FINE)
    assert not await store.end_quality_run(rollout.id, ended(second, GREY), GREY), "once"
    assert [run.verdict for run in await store.load_quality_runs(rollout.id)] == [QualityVerdict.OK]


async def test_only_a_verdict_that_is_news_is_history(store: Store, rollout: Rollout) -> None:
    for place, compared in enumerate([FINE, FINE, GREY, GREY, FINE]):
        await compare(store, rollout, compared, at=NOW + seconds(60 * place))
    run = await store.begin_quality_run(rollout.id, now=NOW + seconds(600))
    await store.end_quality_run(rollout.id, failed(run), None)
    told = [entry for entry in await store.history("colorize") if entry.what == "compare"]
    assert [entry.words for entry in told] == [FINE.sentence, GREY.sentence, FINE.sentence]
    assert {(entry.kind, entry.by, entry.rollout) for entry in told} == {("audit", "hueshift", rollout.id)}


async def test_its_end_wakes_whoever_moves_rollouts(store: Store, rollout: Rollout, ears: Ears) -> None:
    await ears.heard()
    run = await store.begin_quality_run(rollout.id, now=NOW)
    assert await ears.heard() == set()
    await store.end_quality_run(rollout.id, ended(run, FINE), FINE)
    assert await ears.hears(Topic.TELEMETRY, at_most=seconds(5))


async def test_what_is_not_there_is_said_to_be_missing(store: Store, rollout: Rollout) -> None:
    await compare(store, rollout, FINE)
    with pytest.raises(NotFoundError):
        await store.load_quality_report(rollout.id, 2)
    with pytest.raises(NotFoundError):
        await store.load_worst_picture(rollout.id, 1, 1)
    with pytest.raises(ConflictError):
        await store.begin_quality_run(RolloutId("nobody-1"), now=NOW)


async def test_they_go_with_the_telemetry_but_the_last_word_on_a_rollout_that_goes_on(
    store: Store, rollout: Rollout
) -> None:
    old, last = await compare(store, rollout, GREY), await compare(store, rollout, GREY, at=NOW + seconds(60))
    await store.prune_telemetry(before_tick=int(NOW.timestamp()) - 60)
    assert await store.load_quality_runs(rollout.id) == (last, old)
    await store.prune_telemetry(before_tick=int(NOW.timestamp()) + 600)
    assert await store.load_quality_runs(rollout.id) == (last,)
    assert (await store.load_quality_report(rollout.id, last.number)).worst == ()
    over = dataclasses.replace(rollout, state=RolledBack(NOW, RollbackCause.ABORTED, ""))
    await store.save(over, now=NOW)
    await store.prune_telemetry(before_tick=int(NOW.timestamp()) + 600)
    assert await store.load_quality_runs(rollout.id) == ()


@pytest.mark.parametrize("verdict", [None, *QualityVerdict])
async def test_what_a_person_was_asked_is_kept_with_the_rollout(
    store: Store, rollout: Rollout, verdict: QualityVerdict | None
) -> None:
    await store.save(dataclasses.replace(rollout, asked=verdict), now=NOW)
    assert (await store.load(rollout.id)).asked is verdict
