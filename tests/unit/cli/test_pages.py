"""What `get -w` and `proxies` look like at 80 and 120 columns: tests/data/cli holds each page, made by the real API.

HUESHIFT_UPDATE_GOLDEN=1 writes the pages anew; the review is the diff.
"""

import dataclasses
import datetime as dt
import io
import json
import os
import pathlib
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator

import httpx
import pytest
from rich.cells import cell_len

from controlplane.cli.screen import BEGIN_FRAME, ENTER, LEAVE
from controlplane.ports import ClusterHealth, CompiledConfig, NodeStatus, PastRefusal, SnapshotRecord, SnapshotStatus
from controlplane.ports import TypeStatus as Type
from controlplane.rollout.model import Baking, PauseCause, Paused, Plan, RollbackCause, RolledBack, Step
from controlplane.traffic.model import ServedService, TrafficPlan
from controlplane.xds.snapshot import SnapshotCompiler
from tests import builders
from tests.unit.cli.conftest import Cli, Ended

GOLDEN = pathlib.Path(__file__).parents[2] / "data" / "cli"
NOW = builders.NOW
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
ENVOYS_WORDS = (
    "Proto constraint validation failed (RouteValidationError.Routes[1]: embedded message failed validation | caused "
    'by RouteValidationError.Match: ["value is required"])'
)


class Terminal(io.StringIO):
    """A terminal that keeps what is written to it."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Terminal]]:
    """Let commands write to a terminal of some size, in the zone of the tests' moments."""

    def open_terminal(width: int, height: int = 60) -> Terminal:
        for name, value in (("TERM", "xterm-256color"), ("COLUMNS", str(width)), ("LINES", str(height))):
            monkeypatch.setenv(name, value)
        screen = Terminal()
        monkeypatch.setattr(sys, "stdout", screen)
        return screen

    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield open_terminal
    monkeypatch.undo()
    time.tzset()


def plain(text: str) -> str:
    return ESCAPES.sub("", text)


# -- scenes ------------------------------------------------------------------------------------------------------------


def compiled(**weights_bp: int) -> CompiledConfig:
    service = ServedService(builders.make_spec(), builders.make_split(**weights_bp))
    return SnapshotCompiler().compile(TrafficPlan((service,), {}))


OLD, NEW = compiled(v1=9_500, v2=500), compiled(v1=7_500, v2=2_500)


def publish(cli: Cli, config: CompiledConfig) -> None:
    record = SnapshotRecord(
        version=config.version,
        versions=config.versions,
        revisions={"colorize": 1},
        content=config.content,
        status=SnapshotStatus.PROPOSED,
        words="",
        at=cli.world.clock.now(),
    )
    cli.do(cli.world.store.propose_snapshot, record)


def envoy(name: str, config: CompiledConfig, *, at: dt.datetime = NOW, **types: Type) -> NodeStatus:
    synced = {kind: Type(sent=version, acked=version, acked_at=at) for kind, version in config.versions.items()}
    node = builders.make_node(name)
    return dataclasses.replace(node, user_agent="envoy 1.40.0", types={**synced, **types})


def evidence(
    *, candidate: float, odds: float, needed: int | None, reason: str, verdict: str = "hold"
) -> str:  # as the judge leaves it with the rollout
    errors = {
        "name": "error_abs",
        "candidate": candidate,
        "baseline": 0.001,
        "bound": 0.01,
        "odds": odds,
        "still_needed": needed,
    }
    against = {**errors, "name": "error_rel", "bound": 2.0, "still_needed": 0 if needed is not None else None}
    slow = {
        "name": "latency_abs",
        "candidate": 0.021,
        "baseline": 0.019,
        "bound": 0.05,
        "odds": 1.0,
        "still_needed": 0,
    }
    return json.dumps({"verdict": verdict, "reason": reason, "objectives": [errors, against, slow], "tick": 1})


def fleet(cli: Cli, *, candidate: int = 24) -> None:
    """Three Envoys that run 25 %, healthy workers, and twelve seconds of requests."""
    publish(cli, NEW)
    cli.do(cli.world.store.record_nodes, [envoy(f"edge-{number}", NEW) for number in (1, 2, 3)])
    cli.do(cli.world.report_health, ClusterHealth("edge-1", "colorize_v1", 1, 1))
    cli.do(cli.world.report_health, ClusterHealth("edge-2", "colorize_v2", 1, 1))
    for second in range(1, 13):
        batch = builders.make_batch(
            "one",
            tick=builders.TICK + second,
            colorize_v1=builders.make_counts(75),
            colorize_v2=builders.make_counts(candidate + second % 2),
        )
        cli.do(cli.world.store.record, batch)
    cli.world.clock.move(builders.seconds(12))


def stepping(cli: Cli) -> None:
    cli.do(cli.world.declare)
    rollout = cli.do(cli.world.roll)
    text = evidence(
        candidate=0.0033,
        odds=1.4,
        needed=387,
        reason="error rate 0.33 % (1/300), v1 at 0.1 % (1/900) in the same seconds, not yet shown to be below 1 %: "
        "needs about 387 more requests",
    )
    words = "all objectives kept: error rate 0 % (0/60); on to 25 %"
    cli.do(cli.world.move, rollout, Baking(1, NOW), words=words, evidence=text)
    fleet(cli)


def at_a_gate(cli: Cli) -> None:
    cli.do(cli.world.declare)
    steps = (Step(500), Step(2500, pause=True), Step(10_000))
    rollout = cli.do(cli.world.roll, plan=Plan(steps))
    kept = "all objectives kept: error rate 0.1 % (1/1000), v1 at 0.1 % (3/3000) in the same seconds"
    state = Paused(1, NOW, PauseCause.GATE, kept, next_step=2)
    text = evidence(candidate=0.001, odds=1.0, needed=0, reason=kept, verdict="advance")
    cli.do(cli.world.move, rollout, state, words=f"{kept}; a gate waits for a person", evidence=text)
    fleet(cli)


def rolled_back(cli: Cli) -> None:
    cli.do(cli.world.declare)
    rollout = cli.do(cli.world.roll)
    broken = "error rate 20 % (12/60) > SLO 1 %, v1 at 0.1 % in the same seconds; evidence 1:1200"
    cli.do(cli.world.move, rollout, Baking(1, NOW), words="all objectives kept; on to 25 %")
    moved = cli.do(cli.world.store.load, rollout.id)
    state = RolledBack(NOW, RollbackCause.SLO_BREACH, broken)
    text = evidence(candidate=0.2, odds=1200, needed=None, reason=broken, verdict="rollback")
    cli.do(cli.world.move, moved, state, words=f"{broken}; rolling back, all traffic to v1", evidence=text)
    fleet(cli, candidate=0)


def queued(cli: Cli) -> None:
    cli.do(cli.world.declare, versions=("v1", "v2", "v3"))
    rollout = cli.do(cli.world.roll)
    cli.do(cli.world.move, rollout, Baking(1, NOW), words="all objectives kept; on to 25 %")
    assert cli("start", "colorize", "--to", "v3", "--queue", "--reason", "warmer skin").code == 0
    assert cli("start", "colorize", "--to", "v3", "--at", "+6h", "--again").code == 0
    assert cli("freeze", "colorize", "--until", "+2h", "--reason", "black friday").code == 0
    fleet(cli)


def refused(cli: Cli) -> None:
    cli.do(cli.world.declare)
    rollout = cli.do(cli.world.roll)
    state = Paused(0, NOW, PauseCause.NACK, f"edge-2 refused RDS: {ENVOYS_WORDS}", next_step=1)
    cli.do(cli.world.move, rollout, state, words=f"edge-2 refused RDS: {ENVOYS_WORDS}; stands at 5 %")
    fleet(cli)
    cli.do(cli.world.store.record_nodes, nodes())
    cli.world.clock.move(builders.seconds(90))


def nodes() -> list[NodeStatus]:
    """One that is behind, one that refuses, one that is in step again, one that has gone, one that is new."""
    new, old = NEW.versions["rds"], OLD.versions["rds"]
    nack = Type(sent=new, acked=old, acked_at=NOW, nacked=new, words=ENVOYS_WORDS, nacked_at=NOW)
    again = Type(sent=new, acked=new, acked_at=NOW, last_refusal=PastRefusal(old, "no such regex", NOW))
    left = dataclasses.replace(envoy("edge-4", OLD), disconnected_at=NOW)
    fresh = dataclasses.replace(envoy("ingress-envoy-7d9f8b6c5d-x2x4z", OLD), group="shop", types={})
    behind = envoy("edge-1", OLD)
    return [behind, envoy("edge-2", NEW, rds=nack), envoy("edge-3", NEW, rds=again), left, fresh]


def mixed(cli: Cli) -> None:
    refused(cli)


SCENES: dict[str, tuple[Callable[[Cli], None], tuple[str, ...]]] = {
    "get-stepping": (stepping, ("get", "colorize", "-w")),
    "get-gate": (at_a_gate, ("get", "colorize", "-w")),
    "get-rolled-back": (rolled_back, ("get", "colorize", "-w")),
    "get-queued": (queued, ("get", "colorize", "-w")),
    "get-refused": (refused, ("get", "colorize", "-w")),
    "proxies": (mixed, ("proxies",)),
    "proxies-wide": (mixed, ("proxies", "-o", "wide")),
    "explain-gate": (at_a_gate, ("explain", "colorize")),
    "list": (stepping, ("list",)),
}


def shown(cli: Cli, screen: Terminal, arguments: tuple[str, ...]) -> str:
    """Return what is on the terminal when a command has ended, or was interrupted after its first page."""
    if "-w" in arguments:
        cli.meanwhile.append(_ctrl_c)
    run(cli, arguments)
    return plain(screen.getvalue().rpartition(LEAVE)[2])


def _ctrl_c() -> None:
    raise KeyboardInterrupt


def run(cli: Cli, arguments: tuple[str, ...]) -> Ended:
    return cli("--no-color", *arguments)


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", SCENES)
def test_a_page_is_the_golden_one(cli: Cli, terminal: Callable[..., Terminal], name: str, width: int) -> None:
    prepare, arguments = SCENES[name]
    prepare(cli)
    page = "".join(f"{line.rstrip()}\n" for line in shown(cli, terminal(width), arguments).splitlines())
    file = GOLDEN / f"{name}-{width}.txt"
    if os.environ.get("HUESHIFT_UPDATE_GOLDEN") == "1":
        file.write_text(page)
    assert page == file.read_text()
    assert max(map(cell_len, page.splitlines())) <= width


def test_every_golden_page_belongs_to_a_scene() -> None:
    assert {path.stem.rpartition("-")[0] for path in GOLDEN.glob("*.txt")} == set(SCENES)


@pytest.mark.parametrize("width", [40, 61, 79, 81, 200])
def test_no_page_is_wider_than_the_terminal(cli: Cli, terminal: Callable[..., Terminal], width: int) -> None:
    refused(cli)
    for arguments in (("get", "colorize", "-w"), ("proxies",), ("proxies", "-o", "wide")):
        page = shown(cli, terminal(width), arguments)
        assert max(map(cell_len, page.splitlines())) <= width, arguments
        assert "edge-2" in page


def test_a_large_fleet_does_not_fill_the_page(cli: Cli) -> None:
    cli.do(cli.world.declare)
    publish(cli, NEW)
    cli.do(
        cli.world.store.record_nodes, [envoy(f"edge-{number:03}", OLD if number % 2 else NEW) for number in range(300)]
    )
    cli.world.clock.move(builders.seconds(60))
    page = cli("get", "colorize").out
    assert len(page.splitlines()) < 40
    assert [line.split()[1] for line in page.splitlines() if "◇" in line] == [
        f"edge-{odd:03}" for odd in range(1, 17, 2)
    ]
    assert "… 292 more" in page
    assert "AckedWeight" not in page
    assert "150/300" in page
    assert page.count("[HS0107]") == 4
    assert "(colorize) so it is with 97 Envoys more at least; run: hueshift proxies" in page
    wide = cli("get", "colorize", "-o", "wide").out
    assert wide.count("◇") == 100
    assert "… 200 more" in wide


# -- the live page -----------------------------------------------------------------------------------------------------


class Emulator:
    """The little of a terminal that the live page needs: it puts characters where the cursor stands."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.rows = [[" "] * width for _ in range(height)]
        self.row = self.column = 0

    def feed(self, text: str) -> None:
        for part in re.split(r"(\x1b\[[0-9;?]*[A-Za-z]|\r|\n)", text):
            self._take(part)

    def _take(self, part: str) -> None:
        match part:
            case "\r":
                self.column = 0
            case "\n":
                self.row += 1
                assert self.row < self.height, "the page scrolled"
            case "\x1b[H":
                self.row = self.column = 0
            case "\x1b[K":
                self.rows[self.row][self.column :] = [" "] * (self.width - self.column)
            case "\x1b[J":
                for row in self.rows[self.row :]:
                    row[:] = [" "] * self.width
            case _ if part.startswith("\x1b"):
                pass  # a colour
            case _:
                for char in part:
                    assert self.column < self.width, "a line is wider than the terminal"
                    self.rows[self.row][self.column] = char
                    self.column += 1

    @property
    def text(self) -> str:
        return "\n".join("".join(row).rstrip() for row in self.rows).rstrip()


def frames(screen: Terminal) -> list[str]:
    inside = screen.getvalue().partition(ENTER)[2].partition(LEAVE)[0]
    return inside.split(BEGIN_FRAME)[1:]


def test_each_frame_is_written_over_the_one_before_and_nothing_of_that_stays(
    cli: Cli, terminal: Callable[..., Terminal]
) -> None:
    refused(cli)
    rollout = cli.do(cli.world.store.load_latest, "colorize")
    ended = RolledBack(NOW, RollbackCause.ABORTED, "ada: enough")
    cli.later(cli.world.move, rollout, ended, words="ada asked to abort; all traffic to v1")
    screen = terminal(100)
    assert run(cli, ("get", "colorize", "-w")).code == 0
    drawn = frames(screen)
    assert len(drawn) == 2
    both, last = Emulator(100, 60), Emulator(100, 60)
    both.feed(drawn[0])
    assert "paused (nack)" in both.text
    both.feed(drawn[1])
    last.feed(drawn[1])
    assert both.text == last.text
    assert "rolled back" in both.text
    after = plain(screen.getvalue().rpartition(LEAVE)[2])
    assert last.text.splitlines()[0] in after, "the last page stays on the terminal"
    assert after.rstrip().endswith("colorize-1: v1 → v2 ✖ rolled back, step 0/4, weight 0%: ada: enough")
    assert screen.getvalue().count("\x1b[?25h") == 1, "the cursor is there again"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_who_is_told_to_end_leaves_the_terminal_as_it_was(
    cli: Cli, terminal: Callable[..., Terminal], number: signal.Signals
) -> None:
    stepping(cli)
    screen = terminal(100)
    before = signal.getsignal(number)
    cli.meanwhile.append(lambda: signal.raise_signal(number))
    with pytest.raises(SystemExit) as ended:
        run(cli, ("get", "colorize", "-w"))
    assert ended.value.code == 128 + number
    assert "baking" in plain(screen.getvalue().rpartition(LEAVE)[2]), "the last page stays on the terminal"
    assert signal.getsignal(number) == before


def test_a_window_that_changes_its_size_is_right_at_the_next_frame(
    cli: Cli, terminal: Callable[..., Terminal], monkeypatch: pytest.MonkeyPatch
) -> None:
    stepping(cli)
    screen = terminal(120)
    sizes = [os.terminal_size((120, 60))]
    for name in ("COLUMNS", "LINES"):  # they would say the size once and for all
        monkeypatch.delenv(name)
    monkeypatch.setattr(os, "get_terminal_size", lambda *_: sizes[-1])

    def shrink() -> None:
        sizes.append(os.terminal_size((80, 20)))

    cli.meanwhile += [shrink, _ctrl_c]
    assert run(cli, ("get", "colorize", "-w")).code == 130
    first, second = frames(screen)
    large, small = Emulator(120, 60), Emulator(80, 20)
    large.feed(first)
    small.feed(second)
    assert "ActualWeight:" in large.text
    assert re.search(r"^… \d+ more lines: enlarge the window$", small.text, re.MULTILINE)


def test_a_control_plane_that_restarts_is_asked_again_and_what_was_known_stays(
    cli: Cli, terminal: Callable[..., Terminal]
) -> None:
    class Away(httpx.BaseTransport):
        """Is away the second and third time."""

        asked = 0

        def handle_request(self, request: httpx.Request) -> httpx.Response:
            self.asked += 1
            if self.asked in {2, 3}:
                raise httpx.ConnectError("Connection refused")
            return cli.bridge.handle_request(request)

    def wait() -> None:
        """Let time pass."""

    stepping(cli)
    rollout = cli.do(cli.world.store.load_latest, "colorize")
    cli.meanwhile += [wait, wait]
    cli.later(cli.world.move, rollout, RolledBack(NOW, RollbackCause.ABORTED, "ada: enough"))
    cli.transport = Away()
    screen = terminal(120)
    assert run(cli, ("get", "colorize", "-w")).code == 0
    drawn = [plain(frame) for frame in frames(screen)]
    assert [("cannot reach" in frame, "baking" in frame) for frame in drawn] == [
        (False, True),
        (True, True),
        (True, True),
        (False, False),
    ]
    assert "it is asked again" in drawn[1]


def test_a_pipe_is_told_once_that_the_control_plane_is_away_and_once_that_it_is_back(cli: Cli) -> None:
    class Away(httpx.BaseTransport):
        """Is away the second and third time."""

        asked = 0

        def handle_request(self, request: httpx.Request) -> httpx.Response:
            self.asked += 1
            if self.asked in {2, 3}:
                return httpx.Response(503, json={"code": "service_unavailable", "detail": "the database is away"})
            return cli.bridge.handle_request(request)

    def wait() -> None:
        """Let time pass."""

    stepping(cli)
    rollout = cli.do(cli.world.store.load_latest, "colorize")
    cli.meanwhile += [wait, wait]
    cli.later(cli.world.move, rollout, RolledBack(NOW, RollbackCause.ABORTED, "ada: enough"))
    cli.transport = Away()
    ended = cli("get", "colorize", "-w")
    assert ended.code == 0
    assert [ended.out.count(words) for words in ("the database is away", "answers again", "moved")] == [1, 1, 1]
    assert "\x1b" not in ended.out


def test_a_service_that_is_gone_ends_the_watch(cli: Cli) -> None:
    class Gone(httpx.BaseTransport):
        """Answers once."""

        asked = 0

        def handle_request(self, request: httpx.Request) -> httpx.Response:
            self.asked += 1
            if self.asked > 1:
                return httpx.Response(404, json={"code": "not_found", "detail": "service 'colorize' does not exist"})
            return cli.bridge.handle_request(request)

    stepping(cli)
    cli.transport = Gone()
    ended = cli("get", "colorize", "-w")
    assert (ended.code, ended.codes) == (4, ["HS0008"])
