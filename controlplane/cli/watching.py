"""Commands that look more than once: a live page, the wait for an end, and what became of a command."""

from typing import Any, Final

from rich.live import Live

from controlplane.api import units
from controlplane.api.answers import CommandView, EventView, RolloutView, StatusView, WaitingView
from controlplane.cli import output
from controlplane.cli.client import Client, ExitCode, RefusalError
from controlplane.cli.surroundings import Surroundings
from controlplane.errors import ControlPlaneError, InvalidInputError, NotFoundError, UnavailableError

REDRAW_S: Final = 0.5
POLL_S: Final = 1.0
HANDLED_WITHIN_S: Final = 5.0
HANDLED_POLL_S: Final = 0.2

NEEDS_A_PERSON: Final = frozenset({"inconclusive", "nack", "telemetry_lost", "breach"})
"""Pauses that nobody chose: they end only when someone looks."""


def show(surroundings: Surroundings, name: str, *, as_json: bool) -> None:
    """Print a service's page once."""
    with surroundings.client() as client:
        status = _status(client, name)
    if as_json:
        output.print_json(status)
    else:
        page = output.status_tree(status, now=surroundings.now())
        output.print_page(page, color=surroundings.color)


def watch(surroundings: Surroundings, name: str, *, as_json: bool) -> None:
    """Draw a service's page again and again, until its rollout has ended.

    Where no terminal is, one line per change is printed instead, or with *as_json* one object per change.
    """
    console = output.console(color=surroundings.color)
    with surroundings.client() as client:
        status = _status(client, name)
        if console.is_terminal and not as_json:
            page = output.status_tree(status, now=surroundings.now())
            with Live(page, console=console, auto_refresh=False) as live:
                while _goes_on(status):
                    surroundings.sleep(REDRAW_S)
                    status, lost = _again(client, name, status)
                    page = output.status_tree(status, now=surroundings.now(), note=lost)
                    live.update(page, refresh=True)
            return
        seen = _print_change(surroundings, status, "", as_json=as_json)
        while _goes_on(status):
            surroundings.sleep(REDRAW_S)
            status, _ = _again(client, name, status)
            seen = _print_change(surroundings, status, seen, as_json=as_json)


def wait(surroundings: Surroundings, name: str, rollout: str | None, timeout: str, *, as_json: bool) -> ExitCode:
    """Wait for a rollout's end, print where it stands then, and return what that means.

    Raises:
        NotFoundError: The service has had no rollout.
        UnavailableError: The control plane could not be reached at the end.
    """
    try:
        patience = units.parse_span(timeout).total_seconds()
    except units.UnitError as exc:
        raise InvalidInputError("--timeout", exc.problem, exc.fix) from exc
    give_up = surroundings.steady() + patience
    with surroundings.client() as client:
        found = _find(client, name, rollout)
        while not _is_decided(found) and surroundings.steady() < give_up:
            surroundings.sleep(min(POLL_S, max(0.0, give_up - surroundings.steady())))
            try:
                found = client.get(RolloutView, "rollouts", found.id)
            except UnavailableError:
                if surroundings.steady() >= give_up:
                    raise
    if as_json:
        output.print_json(found)
    else:
        output.print_page(output.rollout_line(found), color=surroundings.color)
    match found.outcome:
        case "promoted":
            return ExitCode.OK
        case "rolled_back" | "cancelled":
            return ExitCode.NEGATIVE
        case None:
            return ExitCode.INPUT


def command(surroundings: Surroundings, name: str, verb: str, body: dict[str, Any], *, as_json: bool) -> None:
    """Ask for *verb*, and say what the controller made of it, if it does so within moments.

    Raises:
        RefusalError: The controller refused it.
    """
    with surroundings.client() as client:
        before = _last_number(client, name)
        taken = client.post(CommandView, "services", name, "rollout", verb, body=body)
        news = _news(surroundings, client, name, before)
    refused = [event for event in news if event.kind == "refused"]
    if refused:
        raise RefusalError(409, tuple(event.words for event in refused))
    if as_json:
        output.print_json({**taken.model_dump(), "events": [event.model_dump(mode="json") for event in news]})
        return
    lines = [output.clean(event.words) for event in news if event.kind == "transition"]
    late = taken.words if taken.number == 0 else f"{taken.words}; the controller has not carried it out yet"
    for line in lines or [late]:
        print(f"{name}: {line}")
    if taken.note:
        print(f"{name}: {output.clean(taken.note)}")


def _status(client: Client, name: str) -> StatusView:
    return client.get(StatusView, "services", name, "status")


def _again(client: Client, name: str, last: StatusView) -> tuple[StatusView, str]:
    """Ask again; while the control plane is away, keep what was known and say so."""
    try:
        return _status(client, name), ""
    except (UnavailableError, RefusalError) as exc:
        return last, str(exc)


def _goes_on(status: StatusView) -> bool:
    """Whether more is to come: the rollout has not ended, or the next one begins when it has."""
    return status.rollout is None or status.rollout.active or any(each.state == "queued" for each in status.waiting)


def _print_change(surroundings: Surroundings, status: StatusView, seen: str, *, as_json: bool) -> str:
    rollout = status.rollout
    said = output.rollout_line(rollout).plain if rollout else f"{status.service}: no rollout yet"
    line = f"{said} [{status.acks.words}]"
    if line != seen:
        if as_json:
            print(status.model_dump_json(), flush=True)
        else:
            print(f"{surroundings.now().astimezone():%H:%M:%S} {line}", flush=True)
    return line


def _find(client: Client, name: str, rollout: str | None) -> RolloutView:
    if rollout is not None:
        found = client.get(RolloutView, "rollouts", rollout)
        if found.service != name:
            raise NotFoundError(f"rollout of {name}", rollout)
        return found
    latest = client.get_page(RolloutView, "services", name, "rollouts", limit=1).items
    if not latest or not latest[0].active:
        # How the last one ended is old news to a script that waits for the one in line.
        line = client.get(list[WaitingView], "services", name, "queue")
        if line:
            return client.get(RolloutView, "rollouts", line[0].id)
    if not latest:
        raise NotFoundError(f"rollout of {name}", "latest")
    return latest[0]


def _is_decided(rollout: RolloutView) -> bool:
    return not rollout.active or (rollout.state == "paused" and rollout.cause in NEEDS_A_PERSON)


def _last_number(client: Client, name: str) -> int:
    events = client.get(StatusView, "services", name, "status", events=1).events
    return events[-1].number if events else 0


def _news(surroundings: Surroundings, client: Client, name: str, before: int) -> list[EventView]:
    """Wait a moment for the controller, and return what has happened since *before* apart from the audit's entries."""
    give_up = surroundings.steady() + HANDLED_WITHIN_S
    while True:
        try:
            status = client.get(StatusView, "services", name, "status", events=20)
        except ControlPlaneError:
            return []  # the command was taken down; that the news cannot be had is no failure of it
        if not status.commands_waiting or surroundings.steady() >= give_up:
            return [event for event in status.events if event.number > before and event.kind != "audit"]
        surroundings.sleep(HANDLED_POLL_S)
