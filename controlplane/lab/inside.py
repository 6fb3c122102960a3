"""The control plane inside the program that measures it, so that one steady clock dates both a commit and its ACKs."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from controlplane import running, wiring
from controlplane.lab.stack import Ports
from controlplane.settings import read_settings
from controlplane.xds.fleet import AckHook


@contextlib.asynccontextmanager
async def control_plane_inside(
    directory: Path, ports: Ports, *, on_ack: AckHook, database_url: str = ""
) -> AsyncIterator[wiring.Parts]:
    """Run everything but the API, built by `wiring` like the real one, until the block is left.

    Args:
        directory: For the embedded database and the admin key.
        ports: Where Envoys reach it.
        on_ack: Hears of every ACK.
        database_url: An upgraded database; empty for an embedded one in *directory*.
    """
    settings = read_settings(
        data_dir=directory, xds_port=ports.xds, telemetry_port=ports.telemetry, database_url=database_url
    )
    async with wiring.build(settings, on_ack=on_ack) as parts, asyncio.TaskGroup() as tasks:
        going = tasks.create_task(running.run(parts, api_socket=None))
        try:
            yield parts
        finally:
            going.cancel()
