"""How lab programs end."""

import asyncio

import pytest

from controlplane.errors import ConflictError, UnavailableError
from controlplane.lab.program import EndedEarlyError, run_program


async def answer() -> int:
    return 42


async def fail(*errors: Exception) -> None:
    async with asyncio.TaskGroup() as tasks:
        for error in errors:
            tasks.create_task(raise_it(error))


async def raise_it(error: Exception) -> None:
    raise error


async def be_cancelled() -> None:
    raise asyncio.CancelledError


def test_a_result_is_passed_on() -> None:
    assert run_program(answer()) == 42


def test_expected_errors_are_one_line_however_deep_they_come_from() -> None:
    with pytest.raises(EndedEarlyError, match="the database is away; the port is taken") as caught:
        run_program(fail(UnavailableError("the database is away"), ConflictError("the port is taken")))
    assert caught.value.code == 1


def test_a_bug_keeps_its_trace() -> None:
    with pytest.raises(ExceptionGroup):
        run_program(fail(UnavailableError("the database is away"), KeyError("bug")))


def test_to_be_stopped_is_no_failure() -> None:
    with pytest.raises(EndedEarlyError) as caught:
        run_program(be_cancelled())
    assert caught.value.code == 130
