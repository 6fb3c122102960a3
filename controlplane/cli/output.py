"""What the commands print: tables and trees for people, JSON for programs.

Text that comes from outside (reasons, Envoy's words) is never read as markup and cannot move the cursor.
"""

import datetime as dt
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO

import yaml
from pydantic import BaseModel
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from controlplane.api.answers import (
    AcksView,
    EventView,
    ExplanationView,
    ProvenanceView,
    QualityRunView,
    RolloutView,
    ShareView,
    StatusView,
    SummaryView,
)

SHOWN_CHECKSUM = 19
"""Characters of a checksum that tell models apart for people: its kind and twelve digits."""
WIDE = 1000
"""Columns where the output is no terminal: whoever searches it should find sentences whole."""


MARKS: Mapping[str, tuple[str, str]] = {
    "scheduled": ("◷", "dim"),
    "queued": ("◷", "dim"),
    "cancelled": ("✖", "yellow"),
    "dropped": ("✖", "yellow"),
    "preparing": ("◌", "cyan"),
    "shifting": ("◌", "cyan"),
    "baking": ("◌", "cyan"),
    "paused": ("‖", "yellow"),
    "rolling_back": ("↺", "red"),
    "promoted": ("✔", "green"),
    "rolled_back": ("✖", "red"),
    "good": ("✔", "green"),
    "proposed": ("◌", "cyan"),
    "rejected": ("✖", "red"),
    "ok": ("✔", "green"),
    "drift": ("‖", "yellow"),
    "block": ("✖", "red"),
    "running": ("◌", "cyan"),
    "failed": ("•", "yellow"),
    "SYNCED": ("✔", "green"),
    "STALE": ("◌", "yellow"),
    "NACKED": ("✖", "red"),
    "NEVER SENT": ("•", "dim"),
}


def console(stream: TextIO | None = None, *, color: bool = True) -> Console:
    """Return where to print: as wide as the terminal, or wide enough for anything."""
    file = stream or sys.stdout
    return Console(
        file=file,
        width=None if file.isatty() else WIDE,
        highlight=False,
        markup=False,
        emoji=False,
        no_color=True if not color else None,
    )


def print_page(page: RenderableType, *, color: bool = True) -> None:
    """Print *page*; where no terminal is, without the spaces that fill its lines."""
    target = console(color=color)
    if target.is_terminal:
        target.print(page)
        return
    with target.capture() as captured:
        target.print(page)
    for line in captured.get().splitlines():
        print(line.rstrip(), file=target.file)


def print_json(
    value: BaseModel | Sequence[BaseModel | Mapping[str, Any]] | Mapping[str, Any], stream: TextIO | None = None
) -> None:
    """Print *value* as JSON."""
    print(json.dumps(_plain(value), indent=2, ensure_ascii=False), file=stream or sys.stdout)


def print_yaml(value: BaseModel | Sequence[BaseModel | Mapping[str, Any]] | Mapping[str, Any]) -> None:
    """Print *value* as YAML."""
    print(as_yaml(_plain(value)), end="")


def as_yaml(plain: object) -> str:
    """Write plain data as YAML, in the order that it has."""
    return str(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=WIDE))


def _plain(value: BaseModel | Sequence[BaseModel | Mapping[str, Any]] | Mapping[str, Any]) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return dict(value) if isinstance(value, Mapping) else [_plain(item) for item in value]


def clean(text: str) -> str:
    """Return *text* on one line, without control characters."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def age(seconds: float | None) -> str:
    """Write an age in one unit: ``45s``, ``12m``, ``3h``, ``9d``."""
    if seconds is None:
        return "-"
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{int(seconds // length)}{unit}"
    return f"{max(0, int(seconds))}s"


def marked(name: str, text: str | None = None) -> Text:
    """Write a state with its mark and colour."""
    mark, style = MARKS.get(name, ("•", ""))
    return Text(f"{mark} {clean(text if text is not None else name)}", style=style)


# -- services and rollouts ---------------------------------------------------------------------------------------------


def services_table(services: Iterable[SummaryView]) -> Table:
    """Show services, one line each."""
    table = new_table("NAME", "LISTENER", "SPLIT", "REVISION", "ROLLOUT", "STATE", "STEP", "WEIGHT")
    for service in services:
        rollout = service.rollout
        last: tuple[RenderableType, ...] = ("-", "-", "-", "-")
        more = f" +{service.waiting}" if service.waiting else ""
        if rollout or more:
            last = (f"-{more}", "-", "-", "-")
        if rollout:
            last = (
                f"{rollout.id}{more}",
                marked(rollout.state, f"{rollout.phase}{', frozen' if service.frozen else ''}"),
                f"{rollout.step}/{rollout.steps}",
                rollout.weight,
            )
        table.add_row(
            service.name,
            service.listener,
            split_text(service.split),
            marked(service.revision_status, f"{service.revision} {service.revision_status}"),
            *last,
        )
    return table


def split_text(split: Iterable[ShareView]) -> str:
    """Write a split in a few words."""
    return "  ".join(f"{share.version} {share.weight}" for share in split)


def rollout_line(rollout: RolloutView) -> Text:
    """Say in one line where a rollout stands."""
    line = Text(f"{rollout.id}: {rollout.baseline} → {rollout.candidate} ")
    line.append_text(marked(rollout.state, rollout.phase))
    line.append(f", step {rollout.step}/{rollout.steps}, weight {rollout.weight}")
    words = rollout.words or reason(rollout)
    if words:
        line.append(f": {clean(words)}")
    return line


def reason(rollout: RolloutView) -> str:
    """Return the judge's last sentence, if it has spoken."""
    return str(rollout.evidence.get("reason", "")) if rollout.evidence else ""


def status_tree(status: StatusView, *, now: dt.datetime, note: str = "") -> RenderableType:
    """Show everything about a service on one page, with a *note* at its end."""
    rollout = status.rollout
    head = new_table("", "", header=False)
    head.add_row("Service:", f"{status.service}  {status.listener}")
    if rollout:
        head.add_row("Status:", marked(rollout.state, rollout.phase))
        if rollout.words:
            head.add_row("Message:", Text(clean(rollout.words)))
        head.add_row("Step:", f"{rollout.step}/{rollout.steps}")
        head.add_row("SetWeight:", rollout.weight)
    head.add_row("Acked:", _acks_text(status.acks))
    if status.frozen:
        head.add_row("Frozen:", Text(clean(status.frozen), style="yellow"))
    for waiting in status.waiting:
        head.add_row("Queue:", marked(waiting.state, f"{waiting.id} → {waiting.candidate}: {waiting.words}"))
    if status.commands_waiting:
        head.add_row("Waiting:", f"{status.commands_waiting} command(s) not handled yet")

    tree = Tree(Text(status.service, style="bold"), guide_style="dim")
    if status.rejected:
        words = f"revision {status.rejected.number} refused by Envoy: {status.rejected.words}"
        tree.add(marked("rejected", words))
    tree.add(marked(status.revision.status, f"revision {status.revision.number} {status.revision.status}"))
    split = tree.add("split")
    for share in status.split:
        split.add(_share_text(share))
    for pinned in status.models:
        _add_model(tree, pinned, now)
    if rollout:
        _add_rollout(tree, rollout, status.quality, now)
    if status.acks.refusals:
        refusals = tree.add(Text("refused by Envoy", style="red"))
        for words in status.acks.refusals:
            refusals.add(marked("rejected", words))
    parts: list[RenderableType] = [head, "", tree]
    if status.events:
        parts += ["", Text("Events", style="bold"), Padding.indent(events_table(status.events), 2)]
    if note:
        parts += ["", Text(clean(note), style="yellow")]
    return Group(*parts)


def evidence_table(evidence: Mapping[str, Any]) -> Table:
    """Show what the judge measured, one line per objective."""
    table = new_table("OBJECTIVE", "CANDIDATE", "BASELINE", "BOUND", "ODDS", "STILL NEEDED")
    for objective in evidence.get("objectives") or ():
        if not isinstance(objective, Mapping):
            continue
        relative = str(objective.get("name", "")).endswith("rel")
        bound = objective.get("bound")
        table.add_row(
            clean(str(objective.get("name", "-"))),
            _share(objective.get("candidate")),
            _share(objective.get("baseline")),
            f"x {bound:g}" if relative and isinstance(bound, int | float) else _share(bound),
            _odds(objective.get("odds")),
            _still_needed(objective),
        )
    return table


def _still_needed(objective: Mapping[str, Any]) -> str:
    if objective.get("decides"):
        return clean(str(objective["decides"]))
    return "-" if objective.get("still_needed") is None else str(objective["still_needed"])


def explanation(found: ExplanationView) -> RenderableType:
    """Say why a rollout stands where it stands."""
    head = Text(f"{found.rollout}: ")
    head.append_text(marked(found.state, found.phase))
    lines = [head, Text(clean(found.summary))]
    lines += [Text(f"  {clean(each.words)}") for each in found.objectives]
    for run in found.quality:
        lines.append(Text("  pictures: ").append_text(quality_line(run)))
        if run.measures:
            lines.append(Text(f"    {measures_text(run)}"))
    lines += [Text(f"  {each.id} to {each.candidate}: {clean(each.words)}") for each in found.waiting]
    return Group(*lines, Text(clean(found.next)))


def quality_line(run: QualityRunView) -> Text:
    """Say in one line what a comparison of pictures came to."""
    line = marked(run.verdict or run.status)
    return line.append(f" (comparison {run.number}){f': {clean(run.words)}' if run.words else ''}", style="")


def measures_text(run: QualityRunView) -> str:
    """Write what was measured, each with its interval."""
    return ", ".join(
        f"{name} {each.value:.3g} ({each.low:.3g} to {each.high:.3g})" for name, each in run.measures.items()
    )


def quality_table(runs: Iterable[QualityRunView]) -> Table:
    """Show comparisons of pictures, one line each."""
    table = new_table("NUMBER", "BEGAN", "TOOK", "VERDICT", "OLD", "NEW", "WORDS")
    for run in runs:
        took = f"{(run.ended_at - run.at).total_seconds():.0f} s" if run.ended_at else "-"
        table.add_row(
            str(run.number),
            run.at.astimezone().strftime("%Y-%m-%d %H:%M:%S"),
            took,
            marked(run.verdict or run.status),
            clean(run.old) or "-",
            clean(run.new) or "-",
            clean(run.words),
        )
    return table


def events_table(events: Iterable[EventView]) -> Table:
    """Show what happened, oldest first."""
    table = new_table("TIME", "BY", "WHAT", "WORDS")
    for event in events:
        style = "yellow" if event.kind == "refused" else ""
        table.add_row(
            event.at.astimezone().strftime("%Y-%m-%d %H:%M:%S"),
            clean(event.by),
            Text(clean(event.what), style=style),
            Text(clean(event.words), style=style),
        )
    return table


# -- anything else -----------------------------------------------------------------------------------------------------


def rows_table(rows: Sequence[Mapping[str, str]]) -> Table:
    """Show rows that all have the same columns."""
    table = new_table(*(name.upper() for name in rows[0]))
    for row in rows:
        table.add_row(*(clean(value) for value in row.values()))
    return table


# -- parts -------------------------------------------------------------------------------------------------------------


def new_table(*columns: str, header: bool = True) -> Table:
    """Return an empty table as all of ours look."""
    table = Table(box=None, show_header=header, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _add_rollout(tree: Tree, rollout: RolloutView, quality: Iterable[QualityRunView], now: dt.datetime) -> None:
    title = Text(f"{rollout.id}  {rollout.baseline} → {rollout.candidate}  ")
    title.append_text(marked(rollout.state, rollout.phase))
    title.append(f"  {age((now - rollout.since).total_seconds())}", style="dim")
    branch = tree.add(title)
    branch.add(Text("started by ").append(clean(f"{rollout.by}: {rollout.why}" if rollout.why else rollout.by)))
    branch.add(_steps_text(rollout))
    branch.add(Text(f"objectives: {', '.join(rollout.objectives)}"))
    for run in quality:
        branch.add(Text("pictures: ").append_text(quality_line(run)))
    if not rollout.evidence:
        branch.add(Text("no evidence yet", style="dim"))
        return
    verdict = clean(str(rollout.evidence.get("verdict", "-")))
    evidence = branch.add(Text(f"evidence: {verdict}: {clean(reason(rollout))}"))
    table = evidence_table(rollout.evidence)
    if table.row_count:
        evidence.add(table)


def _steps_text(rollout: RolloutView) -> Text:
    text = Text("steps: ")
    for number, step in enumerate(rollout.plan.steps, start=1):
        done = number < rollout.step or rollout.state == "promoted"
        here = number == rollout.step and not done
        mark, style = ("✔", "green") if done else MARKS.get(rollout.state, ("•", "")) if here else ("•", "dim")
        text.append(f"{mark} {step.weight / 100:g}%{' (gate)' if step.pause else ''}  ", style=style)
    return text


def _share_text(share: ShareView) -> Text:
    if share.total is None or share.healthy is None:
        health = Text("health not reported", style="dim")
    else:
        health = Text(f"{share.healthy}/{share.total} workers healthy", style="" if share.healthy else "red")
    return Text(f"{share.version} {share.weight}  {share.cluster}  ").append_text(health)


def _add_model(tree: Tree, pinned: ProvenanceView, now: dt.datetime) -> None:
    right = sum(worker.matches is True for worker in pinned.workers)
    title = Text(f"model of {pinned.version}: {clean(pinned.model)} {clean(pinned.checksum)[:SHOWN_CHECKSUM]}…  ")
    title.append(f"{right}/{len(pinned.workers)} workers serve it", style="red" if pinned.deviations else "")
    branch = tree.add(title)
    for words in pinned.deviations:
        branch.add(marked("rejected", words))
    for worker in pinned.workers:
        if worker.words:
            since = f", last answer {age((now - worker.at).total_seconds())} ago" if worker.at else ""
            branch.add(Text(f"{clean(worker.address)}: {clean(worker.words)}{since}", style="yellow"))


def _acks_text(acks: AcksView) -> Text:
    text = Text(acks.words, style="green" if acks.expected and not acks.waiting else "yellow")
    if acks.waiting:
        text.append(f", waiting for {', '.join(clean(node) for node in acks.waiting)}")
    return text


def _share(value: object) -> str:
    return f"{value * 100:.3g} %" if isinstance(value, int | float) else "-"


def _odds(value: object) -> str:
    if not isinstance(value, int | float):
        return "-"
    return f"1:{value:.3g}" if value < 1e6 else "1:1000000+"
