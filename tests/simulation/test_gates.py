"""Gates of plans in virtual time: what they hold back, what they end, and that a rollback never waits for one."""

import asyncio
import dataclasses
import datetime as dt
import json
from collections.abc import AsyncIterator, Collection
from typing import Any

import pytest

from controlplane.controller.gatekeeper import Gatekeeper
from controlplane.ports import Rollout
from controlplane.rollout.gate import Before, Decision, Gate, OnTimeout
from controlplane.rollout.model import Baking, Paused, Preparing, Promoted, RollbackCause, RolledBack, State
from tests.builders import make_new_rollout, make_plan, seconds
from tests.simulation.world import World, open_world, restarted

URL = "https://checks.example.org/gate?token=s3cret"


class FakeSource:
    """A `GateSource` that says what a test wants, and keeps what it was asked."""

    def __init__(self) -> None:
        self.says: tuple[Decision, str] = (Decision.CLOSED, "tests run")
        self.asked: list[dict[str, Any]] = []

    async def ask(
        self, url: str, body: bytes, *, event: str, secrets: Collection[str], within: dt.timedelta, now: dt.datetime
    ) -> tuple[Decision, str]:
        assert (url, tuple(secrets)) == (URL, ("whsec_gate",))
        assert within <= seconds(10)
        del now
        self.asked.append(json.loads(body))
        assert self.asked[-1]["id"] == event
        return self.says


@dataclasses.dataclass
class Scene:
    """A world with a gatekeeper."""

    world: World
    source: FakeSource
    secret: tuple[str, ...] = ("whsec_gate",)
    rollout: Rollout | None = None

    @property
    def gatekeeper(self) -> Gatekeeper:
        async def secrets(service: str) -> tuple[str, ...]:
            assert service == "colorize"
            return self.secret

        world = self.world
        return Gatekeeper(
            store=world.store,
            source=self.source,
            secrets=secrets,
            clock=world.clock,
            leads=lambda: world.controller.leads,
            cluster="prod",
        )

    async def start(self, step: int, **options: object) -> None:
        plan = make_plan(500, 10_000, hold=seconds(10))
        gate = Gate(URL, **options)  # type: ignore[arg-type] # passed through
        steps = tuple(
            dataclasses.replace(each, gate=gate if at == step else None) for at, each in enumerate(plan.steps)
        )
        new = make_new_rollout(plan=dataclasses.replace(plan, steps=steps))
        self.rollout = await self.world.store.start(new, key=None, now=self.world.clock.now())

    async def live(self, *states: type[State], at_most: int = 600) -> Rollout:
        """Let seconds pass until the rollout is in one of *states*; with none, all of them."""
        assert self.rollout is not None
        for _ in range(at_most):
            async with asyncio.TaskGroup() as tasks:
                await self.gatekeeper.turn(tasks)
            await self.world.pass_second()
            self.rollout = await self.world.store.load(self.rollout.id)
            if isinstance(self.rollout.state, states):
                return self.rollout
        assert not states, (self.rollout.state, self.rollout.evidence)
        return self.rollout

    async def held(self, *, step: int) -> Rollout:
        """Let seconds pass until a gate is all that keeps the rollout at *step*."""
        assert self.rollout is not None
        found = self.rollout
        for _ in range(300):
            found = await self.live(at_most=1)
            if isinstance(found.state, Baking) and found.state.step == step and "the gate" in (found.evidence or ""):
                return found
        raise AssertionError(found.evidence)

    async def told(self) -> list[str]:
        return [entry.words for entry in await self.world.store.history("colorize") if entry.what == "webhook"]


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    async with open_world() as world:
        yield Scene(world, FakeSource())


async def test_a_gate_before_a_step_holds_it_until_it_opens_across_a_restart(scene: Scene) -> None:
    await scene.start(1)
    await scene.held(step=0)
    found = await scene.live(at_most=15)
    assert isinstance(found.state, Baking)
    assert found.state.step == 0
    assert "the gate checks.example.org before step 2 is closed: tests run" in (found.evidence or "")
    scene.world = restarted(scene.world)
    found = await scene.live(at_most=20)
    assert isinstance(found.state, Baking), "a row is what keeps it"
    scene.source.says = Decision.OPEN, ""
    assert isinstance((await scene.live(Promoted)).state, Promoted)
    question = scene.source.asked[0]
    assert (question["type"], question["subject"]) == ("dev.hueshift.gate.asked", "colorize-1")
    assert question["data"]["cluster"] == "prod"
    assert (question["data"]["before"], question["data"]["step"], question["data"]["weight_bp"]) == ("step", 2, 10_000)
    told = await scene.told()
    assert len(told) == 2, "only changes are told"
    assert told[1].endswith("is open")


async def test_a_gate_before_the_first_step_and_one_before_the_promotion(scene: Scene) -> None:
    await scene.start(0)
    found = await scene.live(at_most=40)
    assert isinstance(found.state, Preparing), "a gate is no reason to give the preparation up"
    scene.source.says = Decision.ABORT, "not today"
    found = await scene.live(RolledBack)
    assert isinstance(found.state, RolledBack)
    assert (found.state.cause, found.state.words) == (RollbackCause.ABORTED, "gate checks.example.org: not today")
    scene.source.says = Decision.CLOSED, ""
    await scene.start(1, before=Before.PROMOTION)
    await scene.held(step=1)
    scene.source.says = Decision.OPEN, ""
    await scene.live(Promoted)


async def test_a_rollback_does_not_wait_for_a_gate(scene: Scene) -> None:
    await scene.start(1)
    await scene.live(at_most=40)
    assert scene.source.asked
    scene.world.errors = lambda: 0.5
    found = await scene.live(RolledBack, at_most=30)
    assert isinstance(found.state, RolledBack)
    assert found.state.cause is RollbackCause.SLO_BREACH


@pytest.mark.parametrize(("on_timeout", "becomes"), [(OnTimeout.PAUSE, Paused), (OnTimeout.ABORT, RolledBack)])
async def test_a_gate_that_cannot_be_reached_holds_and_then_times_out(
    scene: Scene, on_timeout: OnTimeout, becomes: type[State]
) -> None:
    scene.source.says = Decision.SILENT, "answered 503"
    await scene.start(1, timeout=seconds(60), on_timeout=on_timeout)
    found = await scene.live(becomes)
    words = found.state.words  # type: ignore[union-attr] # both have some
    assert "does not answer: answered 503; it did not open within 60 s" in words
    assert len(await scene.told()) == 1


async def test_a_gate_that_cannot_be_signed_is_not_asked_and_says_what_to_do(scene: Scene) -> None:
    scene.secret = ()
    await scene.start(0)
    await scene.live(at_most=3)
    assert scene.source.asked == []
    assert "make one: hueshift notify set colorize gate" in (await scene.told())[0]
