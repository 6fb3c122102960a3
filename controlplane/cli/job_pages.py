"""The pages of jobs: one job, dead ones, queues, figures. All fit into 80 columns where names are of usual length."""

import datetime as dt
from collections.abc import Collection, Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from controlplane.api.job_figures import (
    AttemptView,
    FiguresView,
    KindFiguresView,
    LettersView,
    LineView,
    QueuesView,
    QueueView,
    SpansView,
)
from controlplane.api.job_schemas import JobView, PictureView
from controlplane.cli.output import age, clean, new_table

SHOWN_REASON_CHARS = 200
SHOWN_IDS = 5
STYLES = {"done": "green", "dead": "red", "cancelled": "yellow", "waiting": "cyan", "running": "cyan"}


def job_page(job: JobView, attempts: Collection[AttemptView]) -> RenderableType:
    """Show everything about one job."""
    head = Text(f"job {job.id} is ").append(job.state, style=STYLES.get(job.state, ""))
    if job.words:
        head.append(f": {clean(job.words)}")
    facts = new_table("", "", header=False)
    if job.task_id != job.id:
        facts.add_row("Task:", clean(job.task_id))
    facts.add_row("Kind:", f"{job.kind} ({clean(job.workflow_type)})")
    facts.add_row("Asked for:", f"{clean(job.model)}, {job.size} px, priority {job.priority}")
    facts.add_row("Submitted:", _moment(job.submitted_at))
    facts.add_row("Waited:", _seconds(job.wait_s))
    facts.add_row("Started:", _moment(job.started_at))
    facts.add_row("Ended:", _moment(job.finished_at))
    facts.add_row("Ran:", _seconds(job.run_s))
    facts.add_row("Photo:", _picture(job.photo))
    facts.add_row("Result:", _picture(job.result) + (f", by {clean(job.version)}" if job.version else ""))
    if job.expires_at is not None:
        facts.add_row("Kept until:", _moment(job.expires_at))
    if not attempts:
        return Group(head, facts, Text(f"{job.attempts} attempts, none of which has ended", style="dim"))
    table = new_table("ATTEMPT", "STARTED", "SECONDS", "VERSION", "OUTCOME", "WORDS")
    for each in attempts:
        began = each.started_at.strftime("%H:%M:%S")
        row = (str(each.attempt), began, f"{each.seconds:.2f}", clean(each.version) or "-", each.outcome)
        table.add_row(*row, clean(each.words) or "-")
    return Group(head, facts, "", table)


def dead_page(found: Sequence[JobView]) -> RenderableType:
    """Show dead jobs by their reason, the most frequent first."""
    by_words: dict[str, list[JobView]] = {}
    for job in found:
        by_words.setdefault(clean(job.words)[:SHOWN_REASON_CHARS] or "-", []).append(job)
    lines: list[RenderableType] = [Text(f"{len(found)} dead, {len(by_words)} reasons", style="bold")]
    for words, those in sorted(by_words.items(), key=lambda item: -len(item[1])):
        lines.append(Text(f"{len(those)} x {words}", style="red"))
        table = new_table("", "", "", header=False)
        for job in those[:SHOWN_IDS]:
            task = "" if job.task_id == job.id else clean(job.task_id)
            table.add_row(job.id, f"{job.kind} {task}".strip(), _moment(job.finished_at))
        lines.append(Padding.indent(table, 2))
        if len(those) > SHOWN_IDS:
            lines.append(Text(f"  and {len(those) - SHOWN_IDS} more; -o json has all", style="dim"))
    return Group(*lines)


def queues_page(found: QueuesView) -> RenderableType:
    """Show all queues, then what lies among the dead letters."""
    table = new_table("QUEUE", "KINDS", "WAITING", "OLDEST", "RUNNING", "DEAD", "STARTS")
    for each in found.queues:
        numbers = (str(each.waiting), age(each.oldest_s), str(each.running), str(each.dead))
        table.add_row(each.queue, ", ".join(each.kinds), *numbers, _starts(each))
    parts: list[RenderableType] = [table, Text(f"outbox: {found.outbox} due and not in the queue yet")]
    for drain in found.drains:
        why = f": {clean(drain.began_why)}" if drain.began_why else ""
        which = drain.kind or "all kinds"
        parts.append(Text(f"drained: {which} since {_moment(drain.began_at)} by {drain.began_by}{why}", style="yellow"))
    if found.trouble:
        parts.append(Text(f"dead letters: {clean(found.trouble)}", style="red"))
    else:
        parts += [*_letters("dead letters", found.dead_letters), *_letters("refused tasks", found.dead_tasks)]
    return Group(*parts)


def figures_page(found: FiguresView, since: str) -> RenderableType:
    """Show the figures of each kind, then those of its versions."""
    if not found.kinds:
        return Text("there are no kinds yet")
    parts: list[RenderableType] = []
    for kind in found.kinds:
        parts += [*_kind(kind, since), ""]
    return Group(*parts[:-1])


def _kind(kind: KindFiguresView, since: str) -> list[RenderableType]:
    head = Text(kind.kind, style="bold").append(f", last {clean(since)}: {kind.enqueued} came in, ", style="")
    head.append(f"{kind.done} done, {kind.dead} dead, {kind.cancelled} cancelled", style="")
    now = kind.now
    state = f"now: {now.waiting} wait (the oldest {age(now.oldest_s)}), {now.running} run"
    table = new_table("VERSION", "DONE", "DEAD", "JOBS OK", "ATTEMPTS", "OK", "WAIT p50/p95", "RUN p50/p95")
    for version in kind.versions:
        table.add_row(clean(version.version) or "(nobody)", *_cells(version))
    table.add_row("all", *_cells(kind))
    return [head, Text(state), Padding.indent(table, 2)]


def _cells(line: LineView) -> tuple[str, ...]:
    attempts = sum(line.attempts.values())
    shares = _percent(line.job_share), str(attempts), _percent(line.attempt_share)
    return (str(line.done), str(line.dead), *shares, _spans(line.wait), _spans(line.run))


def _starts(queue: QueueView) -> str:
    if not queue.drained:
        return "yes"
    return "no" if len(queue.drained) == len(queue.kinds) else f"not {', '.join(queue.drained)}"


def _letters(name: str, letters: LettersView) -> list[RenderableType]:
    more = " or more" if letters.more else ""
    lines: list[RenderableType] = [Text(f"{name}: {letters.count}{more}")]
    shown = (f"  {each.count} x {clean(each.words)[:SHOWN_REASON_CHARS]}" for each in letters.reasons)
    return [*lines, *(Text(line, style="red") for line in shown)]


def _moment(at: dt.datetime | None) -> str:
    return "-" if at is None else at.strftime("%Y-%m-%d %H:%M:%S")


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.2f} s"


def _picture(picture: PictureView | None) -> str:
    if picture is None:
        return "-"
    return f"{picture.media_type}, {picture.size_bytes} bytes, sha256 {picture.sha256[:12]}…"


def _percent(share: float | None) -> str:
    if share is None:
        return "-"
    # 99.96 % is not 100 %: whoever reads that looks no further.
    return f"{int(share * 1000) / 10:g}%"


def _spans(spans: SpansView) -> str:
    if spans.p50_s is None or spans.p95_s is None:
        return "-"
    return f"{_short(spans.p50_s)}/{_short(spans.p95_s)}"


def _short(seconds: float) -> str:
    return f"{seconds:.2g}s" if seconds < 10 else f"{seconds:.0f}s" if seconds < 600 else age(seconds)
