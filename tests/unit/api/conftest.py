"""Fixtures of the API's tests."""

import pathlib
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.unit.api.world import World, make_template, open_world


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return make_template(tmp_path_factory.mktemp("template"))


@pytest.fixture
async def world(template: pathlib.Path, tmp_path: pathlib.Path) -> AsyncIterator[World]:
    async with open_world(template, tmp_path) as opened:
        yield opened


@pytest.fixture
async def http(world: World) -> AsyncIterator[httpx.AsyncClient]:
    async with world.http() as client:
        yield client
