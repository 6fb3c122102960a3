"""What holds for every conversation: a session never raises, never repeats itself unasked, and always gets there.

`controlplane.lab.fuzz` draws a conversation from a number and holds what the session says against what a client may
expect. `make soak` has 100,000 of them; a failure is printed as its seed and its shortest beginning.
"""

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import Phase, given, settings

from controlplane.lab.fuzz import hunt
from controlplane.lab.fuzz_world import World
from controlplane.xds.channel import Channel
from controlplane.xds.delta import DeltaSession
from controlplane.xds.responses import Responses
from controlplane.xds.session import Session
from controlplane.xds.sotw import SotwSession

WORLD = World()


@settings(
    derandomize=True,  # the same conversations every time; a longer hunt is `hueshift soak --sequences`
    max_examples=2_000,
    phases=(Phase.explicit, Phase.generate),  # `hunt` shortens a failure by itself
    deadline=None,
)
@given(st.integers(0, 2**63))
def test_no_conversation_breaks_a_promise(seed: int) -> None:
    failure = hunt([seed], world=WORLD, most_steps=14)
    assert failure is None, str(failure)


@pytest.mark.parametrize("seed", [1_227_104])  # a cluster comes again that was refused: its endpoints do too
def test_what_longer_hunts_found_is_mended(seed: int) -> None:
    failure = hunt([seed], world=WORLD)
    assert failure is None, str(failure)


def nothing(*_: Any) -> frozenset[str]:
    return frozenset()


def forgetful(compose: Callable[..., Any]) -> Callable[..., Any]:
    """Return a session's way to compose, but one that takes every client for a new one."""

    def composed(session: Session[Any], channel: Channel, view: Responses) -> Any:
        channel.held = {}
        return compose(session, channel, view)

    return composed


def stubborn(compose: Callable[..., Any]) -> Callable[..., Any]:
    """Return a session's way to compose, but one that says again what was refused."""

    def composed(session: Session[Any], channel: Channel, view: Responses) -> Any:
        if channel.refused:
            channel.held = {name: version for name, version in channel.held.items() if name not in channel.doubtful}
        return compose(session, channel, view)

    return composed


SABOTAGES: dict[str, tuple[type[Any], str, Any]] = {
    "came before an acknowledgement": (Session, "_blocked", nothing),
    "which the client was told to drop": (Session, "_needs_past", lambda _: False),
    "warm for ever": (Session, "_repush_endpoints", nothing),
    "came again, and was refused": (DeltaSession, "_compose", stubborn(DeltaSession._compose)),
    "came unasked, and the client has it": (DeltaSession, "_compose", forgetful(DeltaSession._compose)),
    "the client has all of it": (SotwSession, "_compose", forgetful(SotwSession._compose)),
    "not for Acked": (Channel, "unanswered", property(lambda _: None, lambda *_: None)),
    "is never answered": (Channel, "owed", property(lambda _: frozenset(), lambda *_: None)),
}


@pytest.mark.parametrize("words", SABOTAGES)
def test_a_session_that_breaks_a_promise_is_found_out(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, name, broken = SABOTAGES[words]
    monkeypatch.setattr(owner, name, broken)
    for first in range(0, 2_000, 20):
        failure = hunt(range(first, first + 20), world=WORLD)
        if failure is not None and words in failure.words:
            assert failure.lines
            return
    pytest.fail("nobody notices")
