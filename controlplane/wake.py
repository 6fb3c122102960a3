"""How a commit wakes the loops that read it, without a queue: a flag per loop that can only be raised or consumed.

A lost wake-up costs at most one poll interval, since every loop reads levels; a burst of them costs one turn.
"""

import asyncio
import contextlib
import datetime as dt
import enum


class Topic(enum.Enum):
    """What kind of rows a commit touched."""

    DESIRED = "desired"
    """Services, splits, rollouts or addresses: what should be served."""
    COMMANDS = "commands"
    """Someone asked a rollout to do something."""
    FLEET = "fleet"
    """An Envoy connected, left, acknowledged or refused."""
    TELEMETRY = "telemetry"
    """Counts were written."""
    JOBS = "jobs"
    """Jobs were submitted, wait again, or were put into the queue."""
    NOTICES = "notices"
    """Jobs ended that somebody is to be told of."""
    JOB_STATES = "job_states"
    """Jobs were started or ended, which is nothing to do for those who run them, but news for those who look on."""


class Wake:
    """A flag that a loop waits on. Raising it twice before it is consumed is the same as once."""

    def __init__(self) -> None:
        self._raised = asyncio.Event()

    def set(self) -> None:
        """Raise the flag; the waiting loop takes its turn soon."""
        self._raised.set()

    async def wait(self, at_most: dt.timedelta) -> bool:
        """Wait until the flag is raised, *at_most* that long, and lower it. Return whether it was raised."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(at_most.total_seconds()):
                await self._raised.wait()
        raised = self._raised.is_set()
        self._raised.clear()
        return raised


class WakeBoard:
    """Who wants to be woken by what. Adapters announce topics; wiring decides who listens."""

    def __init__(self) -> None:
        self._listeners: dict[Topic, list[Wake]] = {topic: [] for topic in Topic}

    def listen(self, wake: Wake, *topics: Topic) -> None:
        """Have *wake* raised whenever one of *topics* is announced."""
        for topic in topics:
            self._listeners[topic].append(wake)

    def announce(self, *topics: Topic) -> None:
        """Raise the flags of everyone who listens to *topics*."""
        for topic in topics:
            for wake in self._listeners[topic]:
                wake.set()
