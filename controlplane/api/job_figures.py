"""The shapes of what is told about jobs as a whole: figures, queues, drains; and about one job's attempts."""

import datetime as dt
from collections.abc import Collection

from pydantic import Field

from controlplane.api.answering import View
from controlplane.api.requests import Why
from controlplane.api.schemas import Document
from controlplane.jobs.figures import KindFigures, Line, Spans
from controlplane.jobs.model import AttemptOutcome
from controlplane.jobs.operations import Attempt, Backlog, Drain, Letters, QueueReport, is_drained


class AttemptView(View):
    """One attempt that has ended; *version* is the one that answered, "" where nobody did."""

    attempt: int
    version: str
    outcome: str
    words: str
    started_at: dt.datetime
    ended_at: dt.datetime
    seconds: float


class SpansView(View):
    """Exact percentiles by nearest rank, in seconds; null where *count* is 0."""

    count: int
    p50_s: float | None
    p95_s: float | None


class LineView(View):
    """The figures of a kind, or of one version of it.

    *job_share* is done / (done + dead), *attempt_share* done / (done + failed + refused + lost); null of none. *wait*
    is from submission to first start, of jobs first started in the while; *run* from start to end, of attempts that
    are done.
    """

    done: int
    dead: int
    job_share: float | None
    attempts: dict[str, int]
    attempt_share: float | None
    wait: SpansView
    run: SpansView


class VersionFiguresView(LineView):
    """The part of one version: attempts that it answered, jobs whose result is its, or that died at it."""

    version: str


class NowView(View):
    """Where a kind's jobs stand at this moment; *oldest_s* is how long the first of those that wait does."""

    waiting: int
    running: int
    oldest_s: float | None


class KindFiguresView(LineView):
    """A kind's figures: *enqueued* jobs were submitted in the while; *done*, *dead*, *cancelled* ones ended in it."""

    kind: str
    enqueued: int
    cancelled: int
    now: NowView
    versions: list[VersionFiguresView]


class FiguresView(View):
    """How jobs did, ``since <= moment < until``."""

    since: dt.datetime
    until: dt.datetime
    kinds: list[KindFiguresView]


class ReasonView(View):
    """A reason, and how many dead letters have it."""

    words: str
    count: int


class LettersView(View):
    """What lies among the dead letters; *more*: there are more than the 100 that were looked at."""

    count: int
    more: bool
    reasons: list[ReasonView]


class DrainView(View):
    """A time in which no job of *kind* ("": of any) is started; it holds while *ended_at* is null."""

    kind: str
    began_at: dt.datetime
    began_by: str
    began_why: str
    ended_at: dt.datetime | None
    ended_by: str
    ended_why: str


class QueueView(View):
    """One queue: its kinds' jobs, of all owners; *drained* names those of which none is started now."""

    queue: str
    kinds: list[str]
    drained: list[str]
    waiting: int
    running: int
    dead: int
    oldest_s: float | None


class QueuesView(View):
    """All queues. *outbox*: wake-ups that are due and not in the queue yet.

    *dead_letters* are the queue's own, of jobs that are dead still; *dead_tasks* foreign messages that became no jobs.
    *trouble* says why neither could be looked at.
    """

    queues: list[QueueView]
    outbox: int
    drains: list[DrainView]
    dead_letters: LettersView
    dead_tasks: LettersView
    trouble: str


class DrainDocument(Document):
    """Start no more jobs of *kind* (left out: of any) while *on*; what is submitted waits, what runs goes on."""

    kind: str = Field("", max_length=40)
    on: bool
    why: Why = ""


class DrainedView(View):
    """What a change of drains did."""

    kind: str
    on: bool
    changed: bool
    words: str


def attempt_view(attempt: Attempt) -> AttemptView:
    """Show one attempt."""
    return AttemptView(
        attempt=attempt.attempt,
        version=attempt.version,
        outcome=attempt.outcome.value,
        words=attempt.words,
        started_at=attempt.started_at,
        ended_at=attempt.ended_at,
        seconds=(attempt.ended_at - attempt.started_at).total_seconds(),
    )


def figures_view(figures: Collection[KindFigures], *, since: dt.datetime, until: dt.datetime) -> FiguresView:
    """Show the figures of a while that ends now."""
    return FiguresView(since=since, until=until, kinds=[_kind(each, until) for each in figures])


def queues_view(report: QueueReport, *, now: dt.datetime) -> QueuesView:
    """Show all queues."""
    by_queue: dict[str, list[Backlog]] = {}
    for backlog in report.standing.backlogs:
        by_queue.setdefault(backlog.queue, []).append(backlog)
    return QueuesView(
        queues=[_queue(name, of, report.drains, now) for name, of in sorted(by_queue.items())],
        outbox=report.standing.outbox,
        drains=[drain_view(drain) for drain in report.drains],
        dead_letters=_letters(report.letters),
        dead_tasks=_letters(report.tasks),
        trouble=report.trouble,
    )


def drain_view(drain: Drain) -> DrainView:
    """Show one drain."""
    return DrainView(
        kind=drain.kind,
        began_at=drain.began_at,
        began_by=drain.began_by,
        began_why=drain.began_why,
        ended_at=drain.ended_at,
        ended_by=drain.ended_by,
        ended_why=drain.ended_why,
    )


def _queue(name: str, of: Collection[Backlog], drains: Collection[Drain], now: dt.datetime) -> QueueView:
    return QueueView(
        queue=name,
        kinds=[backlog.kind for backlog in of],
        drained=[backlog.kind for backlog in of if is_drained(backlog.kind, drains)],
        waiting=sum(backlog.waiting for backlog in of),
        running=sum(backlog.running for backlog in of),
        dead=sum(backlog.dead for backlog in of),
        oldest_s=_age(min((backlog.oldest for backlog in of if backlog.oldest is not None), default=None), now),
    )


def _kind(figures: KindFigures, now: dt.datetime) -> KindFiguresView:
    backlog = figures.now
    return KindFiguresView(
        **_line(figures.whole),
        kind=figures.kind,
        enqueued=figures.enqueued,
        cancelled=figures.cancelled,
        now=NowView(waiting=backlog.waiting, running=backlog.running, oldest_s=_age(backlog.oldest, now)),
        versions=[VersionFiguresView(**_line(line), version=version) for version, line in figures.versions.items()],
    )


def _line(line: Line) -> dict[str, object]:
    return {
        "done": line.done,
        "dead": line.dead,
        "job_share": line.job_share,
        "attempts": {outcome.value: line.attempts.get(outcome, 0) for outcome in AttemptOutcome},
        "attempt_share": line.attempt_share,
        "wait": _spans(line.waits),
        "run": _spans(line.runs),
    }


def _spans(spans: Spans) -> SpansView:
    return SpansView(count=spans.count, p50_s=_seconds(spans.p50), p95_s=_seconds(spans.p95))


def _letters(letters: Letters) -> LettersView:
    return LettersView(
        count=sum(count for _, count in letters.reasons),
        more=letters.more,
        reasons=[ReasonView(words=words, count=count) for words, count in letters.reasons],
    )


def _seconds(span: dt.timedelta | None) -> float | None:
    return None if span is None else span.total_seconds()


def _age(since: dt.datetime | None, now: dt.datetime) -> float | None:
    return None if since is None else max(0.0, (now - since).total_seconds())
