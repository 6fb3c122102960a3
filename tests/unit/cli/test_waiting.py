"""What a terminal shows while a command waits, and what is asked before something is destroyed."""

import io
import sys
import threading

import httpx
import pytest

from controlplane.cli import waiting
from controlplane.cli.confirming import confirm
from controlplane.cli.waiting import spinner
from controlplane.errors import InvalidInputError
from controlplane.rollout.model import Promoted
from tests import builders
from tests.unit.cli.conftest import Cli


class Terminal(io.StringIO):
    """A terminal that keeps what is written to it, and says when that is *awaited*."""

    def __init__(self, awaited: str = "", given: str = "") -> None:
        super().__init__(given)
        self._awaited = awaited
        self.seen = threading.Event()

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        written = super().write(text)
        if self._awaited and self._awaited in self.getvalue():
            self.seen.set()
        return written


def open_screen(patch: pytest.MonkeyPatch, awaited: str) -> Terminal:
    """Make stderr a terminal; called in the test itself, since pytest puts its own there before each."""
    screen = Terminal(awaited)
    patch.setenv("TERM", "xterm-256color")
    patch.setattr(sys, "stderr", screen)
    return screen


def test_a_slow_answer_turns_a_wheel_on_stderr(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = open_screen(monkeypatch, "waiting for http://")

    class Slow(httpx.BaseTransport):
        """Answers once the wheel was seen."""

        def handle_request(self, request: httpx.Request) -> httpx.Response:
            assert screen.seen.wait(timeout=30), "no wheel came up"
            return cli.bridge.handle_request(request)

    monkeypatch.setattr(waiting, "AFTER_S", 0.0)
    cli.transport = Slow()
    ended = cli("list")
    assert ended.code == 0
    assert "waiting for http://127.0.0.1:8000" in screen.getvalue()
    assert "waiting" not in ended.out
    assert screen.getvalue().rstrip().endswith("\x1b[2K"), "the line is free again"


def test_a_quick_answer_shows_nothing(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = open_screen(monkeypatch, "waiting")
    assert cli("list").code == 0
    assert screen.getvalue() == ""


def test_where_no_terminal_is_nothing_turns(capsys: pytest.CaptureFixture[str]) -> None:
    with spinner("long work", after_s=0) as say:
        say("longer work")
    assert capsys.readouterr() == ("", "")


def test_a_wheel_says_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = open_screen(monkeypatch, "first")
    with spinner("first", after_s=0) as say:
        assert screen.seen.wait(timeout=30)
        say("second")
    assert "second" in screen.getvalue()


def test_status_waits_without_a_word_in_a_pipe(cli: Cli) -> None:
    cli.do(cli.world.declare)
    rollout = cli.do(cli.world.roll)
    cli.later(cli.world.move, rollout, Promoted(builders.NOW, "all kept"))
    ended = cli("status", "colorize")
    assert (ended.code, ended.said, ended.out.count("\n")) == (0, "", 1)


# -- before something is destroyed -------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", ["n\n", "\n"])
def test_a_terminal_is_asked_and_no_is_no(monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(given=answer))
    with pytest.raises(InvalidInputError, match="nothing was done"):
        confirm("job x goes", yes=False)


def test_a_terminal_is_asked_and_yes_is_yes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(given="y\n"))
    confirm("job x goes", yes=False)
    assert "job x goes for good?" in capsys.readouterr().err


def test_a_script_says_yes_or_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    confirm("job x goes", yes=True)
    with pytest.raises(InvalidInputError, match="--yes: job x goes for good, and nobody can be asked here; add --yes"):
        confirm("job x goes", yes=False)


# -- colours -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["--no-color before", "--no-color behind", "NO_COLOR"])
def test_colours_can_be_left_out(cli: Cli, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    cli.do(cli.world.declare)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    pages = []
    for plain in (False, True):
        screen = Terminal()
        monkeypatch.setattr(sys, "stdout", screen)
        if plain and way == "NO_COLOR":
            monkeypatch.setenv("NO_COLOR", "1")
        before = ["--no-color"] if plain and way.endswith("before") else []
        behind = ["--no-color"] if plain and way.endswith("behind") else []
        assert cli(*before, "get", "colorize", *behind).code == 0
        pages.append(screen.getvalue())
    assert "\x1b[36m" in pages[0]
    assert "\x1b[36m" not in pages[1]
