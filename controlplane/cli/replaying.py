"""The page of a replay: a line per second in which something changed, then what it comes to."""

import pathlib
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from controlplane.api.answers import ReplayedView, ReplayView, RolloutView, SaidView
from controlplane.api.objectives import objectives_from, read_objectives
from controlplane.api.reading import parse_yaml
from controlplane.cli import output
from controlplane.cli.client import Client, RefusalError
from controlplane.cli.formats import Format, for_programs
from controlplane.cli.options import read_text
from controlplane.cli.surroundings import Surroundings
from controlplane.errors import NotFoundError

STYLES = {"advance": "green", "rollback": "red", "probe": "yellow", "ask": "yellow", "hold": ""}


def replay(surroundings: Surroundings, name: str, slo: pathlib.Path | None, *, every: bool, form: Format) -> None:
    """Have the rollout *name*, or the newest of the service *name*, judged again, and print what comes of it.

    Raises:
        InvalidInputError: The file *slo* holds no objectives, or wrong ones.
    """
    body: dict[str, Any] = {"all": every}
    if slo is not None:
        documents = read_objectives(parse_yaml(read_text(slo, option="--slo"), source=str(slo)))
        objectives_from(documents)  # refuse before anything is sent
        body["slos"] = [document.model_dump(mode="json", exclude_unset=True) for document in documents]
    with surroundings.client() as client:
        found = _ask(client, name, body)
    if for_programs(form):
        output.print_data(found, form)
    else:
        output.print_page(_page(found), color=surroundings.color)


def _ask(client: Client, name: str, body: dict[str, Any]) -> ReplayView:
    try:
        return client.post(ReplayView, "rollouts", name, "replay", body=body)
    except RefusalError as refusal:
        if refusal.status != 404:
            raise
    newest = client.get_page(RolloutView, "services", name, "rollouts", limit=1).items
    if not newest:
        raise NotFoundError("rollout of", name)
    return client.post(ReplayView, "rollouts", newest[0].id, "replay", body=body)


def _page(found: ReplayView) -> RenderableType:
    head = Text(f"{found.rollout}: ")
    head.append_text(output.marked(found.state, found.phase))
    head.append(f", judged again by: {'; '.join(found.objectives)}")
    table = output.new_table("TIME", "WEIGHT", "RECORDED", "REPLAYED")
    for tick in found.ticks:
        replayed = Text("the same", style="dim") if tick.same else _said_text(tick.replayed)
        time = tick.at.astimezone().strftime("%H:%M:%S")
        table.add_row(time, tick.weight, _said_text(tick.recorded, note=_note(tick)), replayed)
    parts: list[RenderableType] = [head, *([table] if found.ticks else [])]
    return Group(*parts, *(Text(output.clean(line)) for line in found.summary))


def _note(tick: ReplayedView) -> str:
    return "before the second was over: " if tick.partial else ""


def _said_text(said: SaidView, *, note: str = "") -> Text:
    heeded = "" if said.decision == said.verdict else " (moves nothing now)"
    text = Text().append(f"{said.verdict}{heeded}", style=STYLES.get(said.decision, ""))
    return text.append(f": {note}{output.clean(said.words)}")
