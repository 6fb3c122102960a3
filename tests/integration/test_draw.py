"""A draw that a caller brings along takes the place of Envoy's own, by the split that Envoy runs."""

import dataclasses
from collections import Counter
from pathlib import Path

import httpx
import pytest

from controlplane.traffic.model import Endpoint, ServedService
from tests.builders import make_spec, make_split, make_version
from tests.envoy import bootstrap_for, free_port, running_envoy, running_plane
from tests.picture_worker import running_worker

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

HEADER = "x-draw"


async def test_a_number_from_0_to_9999_takes_the_place_of_chance(tmp_path: Path) -> None:
    with running_worker(version="v1") as v1, running_worker(version="v2") as v2:
        versions = (
            make_version("v1", endpoints=[Endpoint("127.0.0.1", v1.port)]),
            make_version("v2", endpoints=[Endpoint("127.0.0.1", v2.port)]),
        )
        made = make_spec(port=free_port())
        routes = tuple(route for route in made.routes if route.version is None)
        spec = dataclasses.replace(made, versions=versions, routes=routes, draw_header=HEADER)
        async with running_plane(variant="delta") as plane:
            record = plane.publish(ServedService(spec, make_split(v1=7_000, v2=3_000)))
            async with (
                running_envoy(bootstrap_for(plane.port_of("delta"), variant="delta"), tmp_path),
                httpx.AsyncClient(base_url=f"http://127.0.0.1:{spec.listener.port}", trust_env=False) as client,
            ):

                async def ask(**headers: str) -> str:
                    answer = await client.post("/repair", content=b"photo", headers=headers)
                    return answer.headers["x-model-version"]

                await plane.wait_acked(record, "envoy-1")
                for draw, wanted in (("0", "v1"), ("6999", "v1"), ("7000", "v2"), ("9999", "v2")):
                    assert await ask(**{HEADER: draw}) == wanted
                assert HEADER not in v1.headers
                by_chance = Counter([await ask() for _ in range(100)])
                assert by_chance["v1"]
                assert by_chance["v2"]
                record = plane.publish(ServedService(spec, make_split(v1=10_000, v2=0)))
                await plane.wait_acked(record, "envoy-1")
                assert await ask(**{HEADER: "9999"}) == "v1"  # a split that has moved is the one that counts
