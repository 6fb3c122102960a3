"""What the commands print: tables and trees for people, JSON for programs.

Text that comes from outside (reasons, Envoy's words) is never read as markup and cannot move the cursor.
"""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO

import yaml
from pydantic import BaseModel
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from controlplane.api.answers import AdviceView, EventView, ExplanationView, RolloutView, ShareView, SummaryView
from controlplane.api.quality_answers import QualityRunView
from controlplane.cli.formats import Format
from controlplane.cli.layout import Fields, Page, Paragraph, Part
from controlplane.codes import Code

SHOWN_CHECKSUM = 19
"""Characters of a checksum that tell models apart for people: its kind and twelve digits."""
WIDE = 1000
"""Columns where the output is no terminal: whoever searches it should find sentences whole."""


LEVEL_STYLES: Mapping[str, str] = {"Error": "red", "Warn": "yellow", "Info": "cyan"}

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
    "done": ("✔", "green"),
    "kept": ("✔", "green"),
    "healthy": ("✔", "green"),
    "unhealthy": ("✖", "red"),
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
    "NOT SENT": ("•", "dim"),
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


def print_data(value: BaseModel | Sequence[BaseModel | Mapping[str, Any]] | Mapping[str, Any], form: Format) -> None:
    """Print *value* for programs: as YAML if *form* says so, else as JSON."""
    plain = _plain(value)
    if form is Format.YAML:
        print(as_yaml(plain), end="")
    else:
        print(json.dumps(plain, indent=2, ensure_ascii=False))


def as_yaml(plain: object) -> str:
    """Write plain data as YAML, in the order that it has."""
    return str(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=WIDE))


def _plain(value: BaseModel | Sequence[BaseModel | Mapping[str, Any]] | Mapping[str, Any]) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return dict(value) if isinstance(value, Mapping) else [_plain(item) for item in value]


def styled(line: str, style: str) -> Text:
    """Return a line that is not from here, in a colour."""
    return Text("".join(char if char.isprintable() else " " for char in line), style=style)


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


def explanation(found: ExplanationView) -> Page:
    """Say why a rollout stands where it stands."""
    head = Text(f"{found.rollout}: ").append_text(marked(found.state, found.phase))
    lines = [Paragraph(head), Paragraph(Text(clean(found.summary)))]
    lines += [Paragraph(Text(clean(each.words)), indent=2) for each in found.objectives]
    for run in found.quality:
        lines.append(Paragraph(Text("pictures: ").append_text(quality_line(run)), indent=2))
        if run.measures:
            lines.append(Paragraph(Text(measures_text(run)), indent=4))
    for each in found.waiting:
        lines.append(Paragraph(Text(f"{each.id} to {each.candidate}: {clean(each.words)}"), indent=2))
    return Page(*lines, Paragraph(Text(clean(found.next))), *(advice_line(each) for each in found.advice))


def advice_line(advice: AdviceView) -> Paragraph:
    """Write ``Warn [HS0107] (edge-2) …; run: hueshift …``."""
    return Paragraph(_advice(advice.level, advice.code, advice.subject, advice.words, advice.run))


def advice_words(code: Code, subject: str, words: str, run: str) -> Text:
    """Write what `advice_line` does of something that the API did not say itself."""
    return _advice(code.level.value, code.id, subject, words, run)


def _advice(level: str, code: str, subject: str, words: str, run: str) -> Text:
    line = Text().append(f"{level} [{code}]", style=LEVEL_STYLES.get(level, ""))
    line.append(f" ({clean(subject)}) {clean(words)}")
    return line.append(f"; run: {clean(run)}") if run else line


def code_page(code: Code) -> Page:
    """Explain a message code."""
    title = Text(f"{code.id}  ", style="bold").append(code.title)
    title.append(f"  ({code.level.value}, {code.slug})", style="dim")
    page: list[Part | Text] = [Paragraph(title), Text(), Paragraph(Text(code.meaning))]
    if code.run:
        page += [Text(), Fields([("Run:", Text(code.run.format(service="SERVICE", subject="NODE")))])]
    return Page(*page)


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


def share(value: object) -> str:
    """Write a fraction of 1 as a percentage; ``-`` for none."""
    return f"{value * 100:.3g} %" if isinstance(value, int | float) else "-"


def odds(value: object) -> str:
    """Write evidence as odds, ``1:20``."""
    if not isinstance(value, int | float):
        return "-"
    if value >= 1e6:
        return "1:1000000+"
    return f"1:{value:.0f}" if value >= 100 else f"1:{value:.3g}"
