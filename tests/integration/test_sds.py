"""Listeners' certificates: served to real Envoys by name, and changed under load."""

import dataclasses
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from controlplane.api.documents import document_of
from controlplane.lab.stack import Stack
from controlplane.traffic.model import Endpoint, ServedService, ServiceSpec
from controlplane.xds.bootstrap import Variant
from controlplane.xds.envoy_process import EnvoyProcess
from tests.builders import make_spec, make_split, make_version
from tests.certificates import Authority, Pair, replace_file, shown_serial
from tests.envoy import (
    CLOCK,
    Traffic,
    bootstrap_for,
    free_port,
    running_envoy,
    running_plane,
    running_worker,
    wait_until,
)

pytestmark = pytest.mark.integration

NODE = "envoy-1"
NAME = "colorize.test"


@pytest.fixture(params=["sotw", "delta", "sotw-per-type", "delta-per-type"])
def variant(request: pytest.FixtureRequest) -> Variant:
    found: Variant = request.param
    return found


@pytest.fixture
async def spec() -> AsyncIterator[ServiceSpec]:
    """Return a service with a real worker, whose listener is plaintext."""
    async with running_worker("v1") as port:
        made = make_spec(versions=["v1"], port=free_port())
        versions = (make_version("v1", endpoints=[Endpoint("127.0.0.1", port)]),)
        yield dataclasses.replace(
            made, versions=versions, routes=tuple(route for route in made.routes if route.version is None)
        )


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "certificates"
    path.mkdir()
    return path


def issue(authority: Authority) -> Pair:
    return authority.issue(NAME, "127.0.0.1")


def serve(spec: ServiceSpec, certificate: str = NAME) -> ServedService:
    listener = dataclasses.replace(spec.listener, certificate=certificate)
    return ServedService(dataclasses.replace(spec, listener=listener), make_split(v1=10_000))


async def wait_shown(spec: ServiceSpec, authority: Authority, pair: Pair, folder: Path) -> None:
    async def shown() -> bool:
        return await shown_serial(spec.listener.port, authority, name=NAME, folder=folder) == pair.serial

    await wait_until(shown, "new connections are shown the certificate")


async def drains(envoy: EnvoyProcess) -> int:
    statistics = await envoy.statistics("listener_manager.")
    return sum(
        statistics[f"listener_manager.{name}"]
        for name in ("listener_modified", "listener_removed", "listener_in_place_updated")
    )


async def test_a_listener_gets_its_certificate_and_every_later_one(
    variant: Variant, spec: ServiceSpec, authority: Authority, folder: Path, tmp_path: Path
) -> None:
    issue(authority).write(folder, NAME)
    authority.issue("other.test").write(folder, "other.test")
    async with running_plane(certificates=folder) as plane:
        record = plane.publish(serve(spec))
        async with (
            running_envoy(bootstrap_for(plane.server.port, variant=variant), tmp_path / NODE) as envoy,
            Traffic(spec.listener.port, authority=authority).running() as kept,
            Traffic(spec.listener.port, authority=authority, connections=1, requests=3).running() as fresh,
        ):
            await plane.wait_acked(record, NODE)
            before = await drains(envoy)
            pair = issue(authority)
            for _ in range(3):
                pair = issue(authority)
                pair.write(folder, NAME)
                await wait_shown(spec, authority, pair, tmp_path)
                await kept.wait_more(100)
                await fresh.wait_more(10)
            assert kept.failures == fresh.failures == []
            assert await drains(envoy) == before
            dump = json.dumps(await envoy.config_dump())
            assert "other.test" not in dump  # no listener refers to it
            assert b"".join(pair.key.splitlines()[1:-1]).decode() not in dump
        assert plane.metric("hueshift_xds_nacks_total", type="sds") == 0
        assert plane.metric("hueshift_xds_pushes_total", type="lds") == 1
        if not variant.endswith("per-type"):
            assert plane.metric("hueshift_xds_pushes_total", type="sds") == 4


async def test_half_a_new_pair_leaves_the_old_one_in_use(
    spec: ServiceSpec, authority: Authority, folder: Path, tmp_path: Path
) -> None:
    old, new = issue(authority), issue(authority)
    _, key = old.write(folder, NAME)
    async with running_plane(certificates=folder) as plane:
        plane.publish(serve(spec))
        async with (
            running_envoy(bootstrap_for(plane.server.port), tmp_path / NODE),
            Traffic(spec.listener.port, authority=authority).running() as traffic,
        ):
            replace_file(key, new.key)
            await wait_until(
                lambda: plane.metric("hueshift_tls_certificate_refused", certificate=NAME) == 1, "it is refused"
            )
            await wait_shown(spec, authority, old, tmp_path)
            new.write(folder, NAME)
            await wait_shown(spec, authority, new, tmp_path)
            await traffic.wait_more(10)
            assert traffic.failures == []


async def test_a_certificate_that_is_not_there_yet_leaves_the_running_listener_alone(
    variant: Variant, spec: ServiceSpec, authority: Authority, folder: Path, tmp_path: Path
) -> None:
    """Envoy keeps the listener aside until its certificate comes, however long that takes."""
    async with running_plane(certificates=folder) as plane:
        plane.publish(serve(spec, ""))
        async with running_envoy(bootstrap_for(plane.server.port, variant=variant), tmp_path / NODE) as envoy:
            async with Traffic(spec.listener.port).running() as plain:
                record = plane.publish(serve(spec))
                await plane.wait_acked(record, NODE)
                await wait_until(lambda: is_warming(envoy), "the listener waits")
                await plain.wait_more(100)
                assert plain.failures == []
            pair = issue(authority)
            pair.write(folder, NAME)
            await wait_until(lambda: not_warming(envoy), "the listener has its certificate")
            await wait_shown(spec, authority, pair, tmp_path)


async def is_warming(envoy: EnvoyProcess) -> bool:
    return (await envoy.statistics("listener_manager."))["listener_manager.total_listeners_warming"] == 1


async def not_warming(envoy: EnvoyProcess) -> bool:
    return not await is_warming(envoy)


async def test_a_declared_listener_is_served_over_https_by_the_program_as_installed(
    spec: ServiceSpec, authority: Authority, folder: Path, tmp_path: Path
) -> None:
    """`hueshift serve` and `apply`, one Envoy; and no file of the control plane holds the key."""
    pair = issue(authority)
    pair.write(folder, NAME)
    settings = {"HUESHIFT_CERTIFICATES_DIR": str(folder)}
    async with Stack(directory=tmp_path / "plane", clock=CLOCK, settings=settings) as stack:
        document = document_of(serve(spec).spec).model_dump(mode="json", exclude_none=True)
        await stack.api.apply(document)
        await stack.wait_listener(spec.listener.port)
        async with Traffic(spec.listener.port, authority=authority).running() as traffic:
            fresh = issue(authority)
            fresh.write(folder, NAME)
            await wait_shown(spec, authority, fresh, tmp_path)
            await traffic.wait_more(100)
            assert traffic.failures == []
        await wait_until(lambda: shows_in_step(stack), "proxies show the certificate as acknowledged")
        kept = b"".join(path.read_bytes() for path in (tmp_path / "plane").rglob("*") if path.is_file())
        for key in (pair.key, fresh.key):
            assert key.splitlines()[1] not in kept


async def shows_in_step(stack: Stack) -> bool:
    (proxy,) = await stack.api.proxies()
    return {each.type: each.status for each in proxy.types}.get("sds") == "SYNCED"
