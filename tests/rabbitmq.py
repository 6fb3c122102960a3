"""The real RabbitMQ of the tests; where there is none, a test is skipped in one line."""

import contextlib
import pathlib
from collections.abc import AsyncIterator

import pytest

from controlplane.errors import UnavailableError
from controlplane.lab import rabbitmq
from controlplane.lab.rabbitmq import RabbitServer

__all__ = ["RabbitServer", "require_rabbitmq", "running_rabbitmq"]


def require_rabbitmq() -> pathlib.Path:
    """Return the folder of RabbitMQ's programs; skip the test in one line where there is none."""
    try:
        return rabbitmq.find_rabbitmq()
    except UnavailableError as exc:
        pytest.skip(str(exc))


@contextlib.asynccontextmanager
async def running_rabbitmq() -> AsyncIterator[RabbitServer]:
    """Start a broker, and end all of it at the end."""
    require_rabbitmq()
    async with rabbitmq.running_rabbitmq() as server:
        yield server
