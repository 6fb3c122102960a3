"""Commands that look more than once: a live page, the wait for an end, and what became of a command."""

import sys
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from controlplane.api import units
from controlplane.api.answers import CommandView, EventView, RolloutView, StatusView, WaitingView
from controlplane.cli import output
from controlplane.cli.client import Client, ExitCode, RefusalError
from controlplane.cli.formats import Format, for_programs
from controlplane.cli.layout import Page, Paragraph
from controlplane.cli.screen import Screen
from controlplane.cli.service_page import event_text, event_time, service_page
from controlplane.cli.surroundings import Surroundings
from controlplane.cli.waiting import spinner
from controlplane.errors import ControlPlaneError, InvalidInputError, NotFoundError, UnavailableError

REDRAW_S: Final = 0.5
EVENTS: Final = 20
TOO_MANY: Final = 429
POLL_S: Final = 1.0
HANDLED_WITHIN_S: Final = 5.0
HANDLED_POLL_S: Final = 0.2

NEEDS_A_PERSON: Final = frozenset({"inconclusive", "nack", "telemetry_lost", "breach"})
"""Pauses that nobody chose: they end only when someone looks."""


def show(surroundings: Surroundings, name: str, *, form: Format) -> None:
    """Print a service's page once."""
    with surroundings.client() as client:
        status = _status(client, name)
    if for_programs(form):
        output.print_data(status, form)
    else:
        page = service_page(status, now=surroundings.now(), wide=form is Format.WIDE)
        output.print_page(page, color=surroundings.color)


def watch(surroundings: Surroundings, name: str, *, form: Format) -> None:
    """Draw a service's page again and again, until its rollout has ended.

    Where no terminal is, a line per event and change is printed instead, or for programs one object per change. While
    the control plane is away, what was known stays, and it is asked again.

    Raises:
        RefusalError: The API says no, for example because the service is gone.
    """
    console = output.console(color=surroundings.color)
    with surroundings.client(quiet=True) as client:
        watched = _Watched(surroundings, client, name)
        if console.is_terminal and not console.is_dumb_terminal and not for_programs(form):
            _draw(watched, console, wide=form is Format.WIDE)
        else:
            _tell(watched, form)


class _Watched:
    """A service that is asked for again and again, and what is known of it."""

    def __init__(self, surroundings: Surroundings, client: Client, name: str) -> None:
        self.surroundings = surroundings
        self._client = client
        self._name = name
        self.status = _status(client, name)
        self.known_at = surroundings.now()
        self.away = ""
        """Why the control plane does not answer now; "" while it does."""

    @property
    def goes_on(self) -> bool:
        """Whether more is to come: the rollout has not ended, or the next one begins when it has."""
        rollout = self.status.rollout
        return rollout is None or rollout.active or any(each.state == "queued" for each in self.status.waiting)

    @property
    def note(self) -> str:
        if not self.away:
            return ""
        since = output.age((self.surroundings.now() - self.known_at).total_seconds())
        return f"{self.away}; this is what was known {since} ago, and it is asked again"

    def refresh(self) -> None:
        """Wait a moment, then ask again."""
        self.surroundings.sleep(REDRAW_S)
        try:
            self.status = self._client.get(StatusView, "services", self._name, "status", events=EVENTS)
            self.known_at = self.surroundings.now()
            self.away = ""
        except UnavailableError as exc:
            self.away = str(exc)
        except RefusalError as exc:
            if exc.status < 500 and exc.status != TOO_MANY:
                raise
            self.away = str(exc)

    def page(self, *, wide: bool) -> Page:
        return service_page(self.status, now=self.surroundings.now(), note=self.note, wide=wide)


def _draw(watched: _Watched, console: Console, *, wide: bool) -> None:
    """Draw on the terminal until it is over; the last page stays on it, also after Ctrl-C."""
    try:
        with Screen(console) as screen:
            screen.draw(watched.page(wide=wide))
            while watched.goes_on:
                watched.refresh()
                screen.draw(watched.page(wide=wide))
    finally:
        console.print(watched.page(wide=wide))
    _print_outcome(watched, console)


def _print_outcome(watched: _Watched, console: Console) -> None:
    if watched.status.rollout is not None:
        console.print(Page(Text(), Paragraph(output.rollout_line(watched.status.rollout))))


def _tell(watched: _Watched, form: Format) -> None:
    """Print what changes, line by line."""
    seen, number, was_away = "", _newest(watched.status), False
    while True:
        if bool(watched.away) != was_away and not for_programs(form):
            _print_line(watched, watched.note or "the control plane answers again")
        was_away = bool(watched.away)
        if not for_programs(form):
            for event in watched.status.events:
                if event.number > number:
                    print(f"{event_time(event, watched.surroundings.now())}  {event_text(event).plain}", flush=True)
            number = max(number, _newest(watched.status))
        seen = _print_change(watched, seen, form)
        if not watched.goes_on:
            return
        watched.refresh()


def _newest(status: StatusView) -> int:
    return max((event.number for event in status.events), default=0)


def wait(surroundings: Surroundings, name: str, rollout: str | None, timeout: str, *, form: Format) -> ExitCode:
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
    with surroundings.client(quiet=True) as client:
        found = _find(client, name, rollout)
        with spinner(output.rollout_line(found).plain, color=surroundings.color) as say:
            while not _is_decided(found) and surroundings.steady() < give_up:
                surroundings.sleep(min(POLL_S, max(0.0, give_up - surroundings.steady())))
                try:
                    found = client.get(RolloutView, "rollouts", found.id)
                except UnavailableError as exc:
                    if surroundings.steady() >= give_up:
                        raise
                    say(str(exc))
                else:
                    say(output.rollout_line(found).plain)
    if for_programs(form):
        output.print_data(found, form)
    else:
        output.print_page(output.rollout_line(found), color=surroundings.color)
        if found.outcome is None and rollout is None:
            _advise(surroundings, name)
    match found.outcome:
        case "promoted":
            return ExitCode.OK
        case "rolled_back" | "cancelled":
            return ExitCode.NEGATIVE
        case None:
            return ExitCode.INPUT


def _advise(surroundings: Surroundings, name: str) -> None:
    """Print what is to be said of a service whose rollout is not decided."""
    with surroundings.client(quiet=True) as client:
        try:
            advice = _status(client, name).advice
        except ControlPlaneError:
            return  # the answer that was asked for is printed already
    output.print_page(Page(*(output.advice_line(each) for each in advice)), color=surroundings.color)


def command(surroundings: Surroundings, name: str, verb: str, body: dict[str, Any], *, form: Format) -> None:
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
        raise RefusalError(409, tuple(event.words for event in refused), code="conflict")
    if for_programs(form):
        output.print_data({**taken.model_dump(), "events": [event.model_dump(mode="json") for event in news]}, form)
        return
    lines = [output.clean(event.words) for event in news if event.kind == "transition"]
    late = taken.words if taken.number == 0 else f"{taken.words}; the controller has not carried it out yet"
    for line in lines or [late]:
        print(f"{name}: {line}")
    if taken.note:
        print(f"{name}: {output.clean(taken.note)}")


def _status(client: Client, name: str) -> StatusView:
    return client.get(StatusView, "services", name, "status")


def _print_change(watched: _Watched, seen: str, form: Format) -> str:
    status = watched.status
    rollout = status.rollout
    said = output.rollout_line(rollout).plain if rollout else f"{status.service}: no rollout yet"
    line = f"{said} [{status.acks.words}]"
    if line != seen:
        if form is Format.JSON:
            print(status.model_dump_json(), flush=True)
        elif form is Format.YAML:
            print("---")
            output.print_data(status, form)
            sys.stdout.flush()
        else:
            _print_line(watched, line)
    return line


def _print_line(watched: _Watched, line: str) -> None:
    print(f"{watched.surroundings.now().astimezone():%H:%M:%S}  {output.clean(line)}", flush=True)


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
