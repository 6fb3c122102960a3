"""Conversations between xDS clients and a control plane that changes its mind, each drawn from a number.

Nothing but the seed decides what happens, so a failure is its seed, and the shortest beginning of the conversation that
still fails. `make soak` has very many of them, the tests some.
"""

import concurrent.futures
import dataclasses
import datetime as dt
import multiprocessing
import random
import signal
from collections.abc import Iterable
from typing import Final

from controlplane.clock import SystemClock
from controlplane.errors import InvalidInputError
from controlplane.lab.fuzz_behaviour import Behaviour, EnvoyBehaviour, OddBehaviour
from controlplane.lab.fuzz_client import BrokenPromiseError
from controlplane.lab.fuzz_variants import make_client
from controlplane.lab.fuzz_world import Config, Published, World
from controlplane.ports import SnapshotRecord
from controlplane.xds.cache import SnapshotCache
from controlplane.xds.kinds import Kind

STEPS: Final = (4, 48)
"""How long a conversation is, at least and at most."""

BATCH: Final = 500
"""Conversations that a process has at a time."""

PATIENCE: Final = 300
"""Responses after which a client that says nothing new must have all."""


class StillClock:
    """Moves when it is told to."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> dt.datetime:
        """Return a moment."""
        return dt.datetime(2026, 1, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=self.seconds)

    def steady(self) -> float:
        """Return seconds."""
        return self.seconds

    async def sleep(self, delay: dt.timedelta) -> None:
        """Move on at once."""
        self.seconds += delay.total_seconds()


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """A conversation in which a promise was broken. *steps* is the length of its shortest beginning that shows it."""

    seed: int
    steps: int
    words: str
    lines: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join((f"seed {self.seed}, {self.steps} steps:", *self.lines, f"broken: {self.words}"))


class Conversation:
    """One control plane, one or two clients, and what happens to them.

    Args:
        seed: Decides everything.
        world: Makes configurations; may be shared by conversations.
        lines: Where to tell what happens, if anywhere.
    """

    def __init__(self, seed: int, world: World, *, lines: list[str] | None = None) -> None:
        self.rng = random.Random(seed)
        self.world = world
        self.lines = lines
        self.clock = StillClock()
        self.cache = self._make_cache()
        self.config = Config.drawn(self.rng)
        self.published: Published | None = None
        self.since_good: list[Published] = []
        self.length = self.rng.randint(*STEPS)
        self.behaviours: list[Behaviour] = []
        for number in range(1 + (self.rng.random() < 0.35)):
            # Of ten clients six are Envoys; the others may claim to be.
            is_real = self.rng.random() < 0.6
            client = make_client(
                self.rng.choice(("sotw", "delta")),
                f"n{number + 1}",
                cache=self.cache,
                world=world,
                rng=self.rng,
                is_envoy=is_real or self.rng.random() < 0.5,
            )
            client.lines = lines
            self.behaviours.append((EnvoyBehaviour if is_real else OddBehaviour)(client, self.rng))

    def run(self, steps: int) -> None:
        """Let *steps* things happen, or less if the seed says so; then let everyone come to rest.

        Raises:
            BrokenPromiseError: A session did what it must not do.
        """
        if self.rng.random() < 0.7:
            self._publish(self.world.published(self.config))
        for number in range(min(steps, self.length)):
            self._tell(f"{number + 1}.")
            self._step()
        self._tell("everyone comes to rest")
        self._rest()

    # -- what happens --------------------------------------------------------------------------------------------------

    def _step(self) -> None:
        rng = self.rng
        self.clock.seconds += 1.0
        dice = rng.random()
        if self.published is None:
            dice /= 2
        if dice < 0.16:
            self.config = self.config.changed(rng)
            self._publish(self.world.published(self.config))
        elif dice < 0.18 and self.since_good:
            self._publish(rng.choice(self.since_good))
        elif dice < 0.19:
            self._publish_nothing()
        elif dice < 0.2:
            self._restart()
        else:
            behaviour = rng.choice(self.behaviours)
            self._act(behaviour)
        for behaviour in self.behaviours:
            if not behaviour.away:
                most = 100 if rng.random() < 0.8 else rng.randrange(3)  # a transport may be busy
                behaviour.client.take(most)
                behaviour.check()
                if most == 100:
                    behaviour.check_levels()

    def _act(self, behaviour: Behaviour) -> None:
        client = behaviour.client
        client.now = self.clock.seconds
        dice = self.rng.random()
        if behaviour.away:
            if dice < 0.4:
                self._come_back(behaviour)
        elif dice < 0.03:
            self._tell(f"{client.name} loses its connection")
            self.cache.unregister(client)
            behaviour.away = True
        elif dice < 0.05:
            self._come_back(behaviour)
        elif dice < 0.06:
            self._tell(f"{client.name} breaks the protocol")
            client.say_nonsense()
            self._come_back(behaviour)
        else:
            behaviour.step()

    def _come_back(self, behaviour: Behaviour) -> None:
        afresh = self.rng.random() < 0.2
        self._tell(f"{behaviour.client.name} {'starts anew' if afresh else 'connects again'}")
        behaviour.away = False
        behaviour.come_back(self.cache, afresh=afresh)

    def _publish(self, published: Published) -> None:
        self._tell(f"publish {published.words}")
        if self.published is None or self._is_in_step(self.published):
            self.since_good = [self.published] if self.published is not None else []
        self._offer(published.record)
        self.published = published
        self.since_good.append(published)
        for behaviour in self.behaviours:
            behaviour.client.aim(published)

    def _offer(self, record: SnapshotRecord) -> None:
        self.cache.publish(record)

    def _publish_nothing(self) -> None:
        if self.published is None:
            return
        self._tell("publish nothing")
        try:
            self._offer(dataclasses.replace(self.published.record, version="x", content=b""))
        except InvalidInputError:
            return
        raise BrokenPromiseError("a snapshot of nothing was published")

    def _restart(self) -> None:
        """The control plane ends and another one starts: it publishes what may be in use, oldest first."""
        self._tell("the control plane restarts")
        self.cache = self._make_cache()
        for published in self.since_good:
            self._offer(published.record)
        for behaviour in self.rng.sample(self.behaviours, len(self.behaviours)):
            behaviour.client.now = self.clock.seconds
            behaviour.away = False
            behaviour.come_back(self.cache, afresh=False)

    def _is_in_step(self, published: Published) -> bool:
        for behaviour in self.behaviours:
            levels = dict(behaviour.client.session.levels())
            if behaviour.away or any(levels[kind].acked != published.versions[kind] for kind in levels):
                return False
            if not behaviour.client.session.settled or Kind.RDS not in levels:
                return False
        return True

    # -- the end -------------------------------------------------------------------------------------------------------

    def _rest(self) -> None:
        """Whatever happened: once something good is published and everything is answered, all run just that."""
        for behaviour in self.behaviours:
            if behaviour.away:
                self._come_back(behaviour)
        if self.published is None:
            return
        if self.cache.doubted or any(
            watch.refused for behaviour in self.behaviours for watch in behaviour.client.watches.values()
        ):
            self.config = self.config.renewed()
            self._publish(self.world.published(self.config))
        for behaviour in self.behaviours:
            self._come_to_rest(behaviour)
        for behaviour in self.behaviours:
            behaviour.check_end()
            behaviour.check_levels()
        self._offer(self.published.record)
        for behaviour in self.behaviours:
            if behaviour.client.take():
                raise BrokenPromiseError("the same was published again, and sent again")

    def _come_to_rest(self, behaviour: Behaviour) -> None:
        for _ in range(PATIENCE):
            self.clock.seconds += 1.0
            behaviour.client.take()
            behaviour.check()
            if behaviour.settle():
                continue
            if isinstance(behaviour, EnvoyBehaviour) and behaviour.draining:
                behaviour.end_drain()
                continue
            if not behaviour.client.take():
                return
        raise BrokenPromiseError("it never ends")

    def _make_cache(self) -> SnapshotCache:
        return SnapshotCache(clock=self.clock, identifier="here")

    def _tell(self, line: str) -> None:
        if self.lines is not None:
            self.lines.append(line)


def hunt(seeds: Iterable[int], *, world: World | None = None, most_steps: int = STEPS[1]) -> Failure | None:
    """Have the conversations of these *seeds*; return the first that fails, at its shortest."""
    world = world or World()
    for seed in seeds:
        if _fails(seed, world, most_steps) is not None:
            steps = 0
            while (failure := _fails(seed, world, steps, tell=True)) is None:
                steps += 1
            return failure
    return None


def _fails(seed: int, world: World, steps: int, *, tell: bool = False) -> Failure | None:
    lines: list[str] | None = [] if tell else None
    try:
        Conversation(seed, world, lines=lines).run(steps)
    except Exception as exc:  # noqa: BLE001 - that nothing raises is one of the promises
        words = str(exc) if isinstance(exc, BrokenPromiseError) else repr(exc)
        return Failure(seed, steps, words, tuple(lines or ()))
    return None


def main(*, sequences: int, seed: int = 0) -> int:
    """Have *sequences* conversations from *seed* on, on every core; return 0 if all promises were kept."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    begun = SystemClock().steady()
    batches = [range(first, min(first + BATCH, seed + sequences)) for first in range(seed, seed + sequences, BATCH)]
    try:
        with concurrent.futures.ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
            found = next(filter(None, pool.map(hunt, batches)), None)
            pool.shutdown(cancel_futures=True)
    except KeyboardInterrupt:
        print("soak: ended early; everything is stopped")
        return 130
    if found is not None:
        print(found)
    seconds = SystemClock().steady() - begun
    seeds = f"seeds {seed} to {seed + sequences - 1}"
    print(f"{'FAILS' if found else 'holds'}: {sequences} conversations, {seeds}, {seconds:.0f} s")
    return 1 if found else 0
