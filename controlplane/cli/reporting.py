"""`hueshift report`: what a rollout did, for the summary of a pipeline's job or for a program."""

import datetime as dt
import enum
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from controlplane.cli.formats import Format
from controlplane.cli.options import surroundings_of
from controlplane.errors import NotFoundError

if TYPE_CHECKING:
    from controlplane.api.answers import EventView, RolloutView
    from controlplane.cli.client import Client

ID: Final = re.compile(r".+-\d+")
OUTCOMES: Final = {"promoted": "✅ promoted", "rolled_back": "❌ rolled back", None: "⏳ not decided"}
MAX_STEPS: Final = 200


class ReportFormat(enum.StrEnum):
    """How a report is written."""

    MARKDOWN = "markdown"
    JSON = "json"


def report(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(help="A rollout's id, as colorize-7; or a service, for its newest.", show_default=False)
    ],
    output: Annotated[
        ReportFormat, typer.Option("--output", "-o", help="For a job's summary, or for programs.")
    ] = ReportFormat.MARKDOWN,
) -> None:
    """Say what a rollout did: its outcome, the evidence, its steps with their times, requests and failures.

    In a pipeline: hueshift report colorize >> "$GITHUB_STEP_SUMMARY"
    """
    from controlplane.cli import output as printing  # noqa: PLC0415 - see main

    with surroundings_of(context).client() as client:
        rollout = _find(client, name)
        found = _facts(client, rollout)
    if output is ReportFormat.JSON:
        printing.print_data(found, Format.JSON)
    else:
        for line in markdown(found):
            print(line)


def register(app: typer.Typer) -> None:
    """Add the command to *app*."""
    app.command()(report)


def _find(client: "Client", name: str) -> "RolloutView":
    from controlplane.api.answers import RolloutView, StatusView  # noqa: PLC0415
    from controlplane.cli.client import RefusalError  # noqa: PLC0415

    try:
        latest = client.get(StatusView, "services", name, "status", events=0).rollout
    except RefusalError as refusal:
        if refusal.status != 404 or not ID.fullmatch(name):
            raise
        return client.get(RolloutView, "rollouts", name)
    if latest is None:
        raise NotFoundError(f"rollout of {name}", "latest")
    return latest


def _facts(client: "Client", rollout: "RolloutView") -> dict[str, Any]:
    from controlplane.api.answers import EventsView  # noqa: PLC0415

    events: list[EventView] = []
    after = 0
    while True:
        page = client.get(EventsView, "services", rollout.service, "events", after=after)
        events += [event for event in page.events if event.rollout == rollout.id]
        if page.next <= after:
            break
        after = page.next
    steps = [event for event in events if event.kind == "transition"][-MAX_STEPS:]
    return {
        "rollout": rollout.id,
        "service": rollout.service,
        "from": rollout.baseline,
        "to": rollout.candidate,
        "outcome": rollout.outcome,
        "state": rollout.state,
        "phase": rollout.phase,
        "evidence": rollout.words or (str(rollout.evidence.get("reason", "")) if rollout.evidence else ""),
        "by": rollout.by,
        "why": rollout.why,
        "started_at": _moment(rollout.started_at),
        "ended_at": _moment(rollout.ended_at) if rollout.ended_at else None,
        "seconds": (rollout.ended_at - rollout.started_at).total_seconds() if rollout.ended_at else None,
        "versions": _versions(client, rollout),
        "objectives": list(rollout.objectives),
        "steps": [
            {"at": _moment(one.at), "before": one.before, "after": one.after, "words": one.words} for one in steps
        ],
        "by_hand": [
            {"at": _moment(one.at), "by": one.by, "what": one.what, "words": one.words}
            for one in events
            if one.kind == "audit"
        ],
        "links": {
            "rollout": f"{client.url}/v1/rollouts/{rollout.id}",
            "history": f"{client.url}/v1/services/{rollout.service}/history?rollout={rollout.id}",
            "page": f"{client.url}/",
        },
    }


def _versions(client: "Client", rollout: "RolloutView") -> list[dict[str, Any]]:
    from controlplane.api.series import SeriesView  # noqa: PLC0415
    from controlplane.cli.client import RefusalError  # noqa: PLC0415

    try:
        series = client.get(SeriesView, "services", rollout.service, "series", rollout=rollout.id)
    except RefusalError:  # the service is gone, or the rollout ended in the moment that it began: nothing to count
        return [{"version": name, "requests": None, "bad": None} for name in (rollout.baseline, rollout.candidate)]
    found = []
    for version in series.versions:
        known = [count for count in version.requests if count is not None]
        bad = sum(count for count in version.errors if count is not None)
        requests = sum(known) if known else None
        found.append({"version": version.version, "requests": requests, "bad": bad if known else None})
    return found


def _moment(moment: dt.datetime) -> str:
    return moment.astimezone(dt.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def markdown(found: dict[str, Any]) -> Iterator[str]:
    """Write a report as Markdown; what people wrote cannot become markup."""
    yield f"## {OUTCOMES[found['outcome']]}: {_text(found['service'])} {_text(found['from'])} → {_text(found['to'])}"
    yield ""
    if found["evidence"]:
        yield f"> {_text(found['evidence'])}"
        yield ""
    took = f", took {_span(found['seconds'])}" if found["seconds"] is not None else f", {_text(found['phase'])}"
    why = f": {_text(found['why'])}" if found["why"] else ""
    yield f"Rollout [`{found['rollout']}`]({found['links']['rollout']}), started {found['started_at']} by"
    yield f"{_text(found['by'])}{why}{took}."
    yield ""
    yield from _table(
        ("version", "requests", "bad responses"),
        [(one["version"], _number(one["requests"]), _number(one["bad"])) for one in found["versions"]],
    )
    yield from _table(
        ("time", "became", "what happened"), [(one["at"], one["after"], one["words"]) for one in found["steps"]]
    )
    if found["by_hand"]:
        yield from _table(
            ("time", "who", "did", "words"),
            [(one["at"], one["by"], one["what"], one["words"]) for one in found["by_hand"]],
        )
    if found["objectives"]:
        yield "Objectives:"
        yield ""
        yield from (f"- {_text(words)}" for words in found["objectives"])
        yield ""
    yield f"[The page]({found['links']['page']}) · [what happened]({found['links']['history']})"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'|'.join(' --- ' for _ in head)}|"
    for row in rows:
        yield f"| {' | '.join(_text(cell) for cell in row)} |"
    yield ""


def _text(words: str) -> str:
    line = " ".join("".join(char if char.isprintable() else " " for char in words).split())
    return re.sub(r"([\\`*_\[\]<>|#!~])", r"\\\1", line)


def _number(count: int | None) -> str:
    return "unknown" if count is None else f"{count:,}"


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        " ".join(f"{count} {unit}" for count, unit in ((hours, "h"), (minutes, "min"), (rest, "s")) if count) or "0 s"
    )
