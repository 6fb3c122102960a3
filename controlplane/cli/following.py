"""Reads the stream of events, line by line, and goes on after the last one when it was cut."""

import dataclasses
import datetime as dt
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from controlplane.cli import output
from controlplane.cli.client import Client
from controlplane.cli.formats import Format
from controlplane.cli.surroundings import Surroundings
from controlplane.errors import UnavailableError

RETRY_S: Final = 2.0
HAPPENINGS: Final = "rollout,command,refused,apply,delete,split,revision,freeze,pictures,ack,nack"
"""What is told unless something else was asked for: what happens, and not how things stand every second."""


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
    """What to tell: of which services (all if none), which types, how much of the past, and whether to go on."""

    services: tuple[str, ...]
    types: str | None
    last: int
    follow: bool

    @property
    def query(self) -> dict[str, str | int]:
        """The question as the API takes it."""
        query: dict[str, str | int] = {
            "types": self.types or HAPPENINGS,
            "last": self.last,
            "follow": str(self.follow).lower(),
        }
        return query | ({"service": ",".join(self.services)} if self.services else {})


@dataclasses.dataclass(frozen=True, slots=True)
class Event:
    """One event as it came. *id* is "" where none can be gone on from."""

    type: str
    id: str
    data: Mapping[str, Any]


def tell(surroundings: Surroundings, asked: Asked, *, form: Format) -> None:
    """Print what happens, until it ends or for ever.

    Raises:
        RefusalError: The API said no, then or later.
        UnavailableError: It cannot be reached in the first place, or not at the end of a stream that was to end.
    """
    place = Place()
    with surroundings.client() as client:
        _tell_once(client, asked, place, form=form)
        while asked.follow:
            surroundings.sleep(RETRY_S)
            try:
                _tell_once(client, asked, place, form=form)
            except UnavailableError as exc:
                place.away(str(exc))


class Place:
    """Where in the log we are, and whether it was said that nothing comes."""

    def __init__(self) -> None:
        self.id = ""
        self._is_away = False

    def at(self, number: str) -> None:
        """Note how far we have come."""
        self.id = number
        self._is_away = False

    def away(self, words: str) -> None:
        """Say once that nothing comes."""
        if not self._is_away:
            print(f"hueshift: {words}; trying again", file=sys.stderr)
        self._is_away = True


def _tell_once(client: Client, asked: Asked, place: Place, *, form: Format) -> None:
    headers = {"Last-Event-ID": place.id} if place.id else {}
    with client.stream("events", headers=headers, **asked.query) as lines:
        for event in read_events(lines):
            if event.id:
                place.at(event.id)
            if event.type == "reset" and headers:
                print("hueshift: more has happened meanwhile than can be told; see hueshift history", file=sys.stderr)
            elif event.data and event.type not in {"begin", "live", "reset"}:
                print(_written(event, form), flush=True)


def read_events(lines: Iterable[str]) -> Iterator[Event]:
    """Read server-sent events; of what is no JSON object nothing is kept but its id."""
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
        elif fields:
            yield Event(fields.get("event", "message"), fields.get("id", ""), _object(fields.get("data", "")))
            fields = {}


def line_of(event: Event) -> str:
    """Write an event for people."""
    data = event.data
    at = data.get("at")
    moment = f"{dt.datetime.fromisoformat(at).astimezone():%Y-%m-%d %H:%M:%S} " if at else ""
    service = f"{data['service']}: " if data.get("service") else ""
    return output.clean(f"{moment}{service}{_words(event)}")


def _words(event: Event) -> str:
    data = event.data
    match event.type:
        case "state":
            rollout = data.get("rollout")
            return f"{rollout['candidate']} {rollout['phase']}" if rollout else "no rollout"
        case "weights":
            asked = ", ".join(f"{version} {bp / 100:g} %" for version, bp in data["set"].items())
            return f"{asked}; {data['envoys_acked']}/{data['envoys']} ACKed"
        case _:
            return str(data.get("sentence") or json.dumps(data, ensure_ascii=False))


def _written(event: Event, form: Format) -> str:
    plain = {"type": event.type, "id": event.id or None, **event.data}
    match form:
        case Format.JSON:
            return json.dumps(plain, ensure_ascii=False)
        case Format.YAML:
            return f"---\n{output.as_yaml(plain)}".rstrip()
        case Format.TABLE | Format.WIDE:
            return line_of(event)


def _object(text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
