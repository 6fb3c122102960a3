"""A whole system on this machine, as real processes: a control plane and its Envoys, on ports of their own.

What a bench or a drill needs to stand on: start everything, reach the API, kill the control plane and start it again
on the same ports, and leave nothing running behind.
"""

import asyncio
import contextlib
import dataclasses
import datetime as dt
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from controlplane.clock import Clock
from controlplane.lab.api_client import ApiClient, wait_for_answer
from controlplane.lab.ports import free_ports
from controlplane.lab.server import ServerProcess
from controlplane.xds.bootstrap import Variant, render_bootstrap

START_WITHIN = dt.timedelta(seconds=120)
POLL = dt.timedelta(milliseconds=50)


def program(name: str) -> str:
    """Return the path of a program of this environment."""
    return str(Path(sys.executable).parent / name)


async def is_listening(port: int) -> bool:
    """Whether something accepts connections on a loopback *port*."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Where everything listens, on loopback."""

    api: int
    xds: int
    telemetry: int
    admins: tuple[int, ...]


def bytecode(directory: Path) -> dict[str, str]:
    """Let a control plane that is started again find its modules compiled, as an installed one does."""
    if not sys.dont_write_bytecode:
        return {}
    return {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(directory / "bytecode")}


class EnvoyServer:
    """One real Envoy, with the bootstrap that this control plane renders.

    Args:
        node_id: Its name in the fleet.
        ports: Where its control plane listens.
        admin_port: Where its admin interface shall listen.
        variant: How it asks for configuration.
        directory: For its bootstrap and log.
        group: Which group it belongs to.
    """

    def __init__(
        self,
        node_id: str,
        ports: Ports,
        admin_port: int,
        *,
        variant: Variant,
        directory: Path,
        group: str = "hueshift",
    ) -> None:
        self._bootstrap = render_bootstrap(
            node_id=node_id,
            cluster=group,
            xds_port=ports.api if variant == "rest" else ports.xds,
            telemetry_port=ports.telemetry,
            admin_port=admin_port,
            variant=variant,
        )
        self._bootstrap_file = directory / f"{node_id}.json"
        # One worker thread: the machine is shared with everything else that is measured.
        arguments = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"]
        self.server = ServerProcess(
            [program("envoy"), "-c", str(self._bootstrap_file), *arguments], log_file=directory / f"{node_id}.log"
        )

    async def start(self) -> None:
        """Write the bootstrap and start the process."""
        self._bootstrap_file.parent.mkdir(parents=True, exist_ok=True)
        self._bootstrap_file.write_text(json.dumps(self._bootstrap))
        await self.server.start()


class Stack:
    """Control plane and Envoys, started on entry, all ended on exit.

    Args:
        directory: For the database, keys, bootstraps and logs.
        clock: For waiting.
        envoys: How many.
        variant: How they speak xDS.
        settings: ``HUESHIFT_*`` variables beyond ports and paths.
        command: What serves; by default ``hueshift serve``.
        telemetry_via: The port that Envoys report to, where something stands between them and the control plane.
    """

    def __init__(
        self,
        *,
        directory: Path,
        clock: Clock,
        envoys: int = 1,
        variant: Variant = "delta",
        settings: dict[str, str] | None = None,
        command: Sequence[str] = (),
        telemetry_via: int | None = None,
    ) -> None:
        api, xds, telemetry, *admins = free_ports(3 + envoys)
        self.ports = Ports(api=api, xds=xds, telemetry=telemetry, admins=tuple(admins))
        self._directory = directory.absolute()
        self._clock = clock
        key_file = self._directory / "admin.key"
        self.api = ApiClient(api, key_file=key_file, clock=clock)
        self.control_plane = ServerProcess(
            command or [program("hueshift"), "serve"],
            log_file=self._directory / "control-plane.log",
            environment={
                "HUESHIFT_DATA_DIR": str(self._directory),
                "HUESHIFT_API_KEY_FILE": str(key_file),
                "HUESHIFT_API_PORT": str(api),
                "HUESHIFT_XDS_PORT": str(xds),
                "HUESHIFT_TELEMETRY_PORT": str(telemetry),
                "HUESHIFT_REST_DISCOVERY": "loopback" if variant == "rest" else "off",
                **bytecode(self._directory),
                **(settings or {}),
            },
        )
        seen = dataclasses.replace(self.ports, telemetry=telemetry_via or telemetry)
        self.envoys = tuple(
            EnvoyServer(f"envoy-{number}", seen, admin, variant=variant, directory=self._directory)
            for number, admin in enumerate(admins, start=1)
        )

    async def __aenter__(self) -> Self:
        try:
            await self.start_control_plane()
            for envoy in self.envoys:
                await envoy.start()
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()

    async def start_control_plane(self) -> float:
        """Start the control plane and wait until its API answers; return how many seconds that took."""
        begun = self._clock.steady()
        await self.control_plane.start()

        async def ask() -> bool | None:
            self.control_plane.check_alive()
            return True if await self.api.is_up() else None

        await wait_for_answer(ask, what="the control plane", clock=self._clock, at_most=START_WITHIN, every=POLL)
        return self._clock.steady() - begun

    async def kill_control_plane(self) -> None:
        """End the control plane with SIGKILL. `start_control_plane` brings it back on the same ports."""
        await self.control_plane.kill()

    async def wait_listener(self, port: int) -> None:
        """Wait until an Envoy listens on *port*."""

        async def ask() -> bool | None:
            for envoy in self.envoys:
                envoy.server.check_alive()
            return await is_listening(port) or None

        await wait_for_answer(ask, what=f"a listener on {port}", clock=self._clock, at_most=START_WITHIN, every=POLL)

    async def _end(self) -> None:
        try:
            await self.api.__aexit__(None, None, None)
            for envoy in self.envoys:
                await envoy.server.stop()
        finally:
            await self.control_plane.stop()
