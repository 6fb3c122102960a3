"""A real RabbitMQ on loopback, that may be killed and started: from the Debian package, as nobody, in its own folder.

The package's own wrapper insists on root or its user; the program behind it does not. HUESHIFT_RABBITMQ_BIN names a
folder of other programs (rabbitmq-server, rabbitmqctl, perhaps epmd), which see to their user themselves.
"""

import asyncio
import contextlib
import datetime as dt
import os
import pathlib
import secrets
import subprocess
import tempfile
from collections.abc import AsyncIterator

from controlplane.clock import SystemClock
from controlplane.errors import UnavailableError
from controlplane.lab.api_client import wait_for_answer
from controlplane.lab.ports import free_ports
from controlplane.lab.server import ServerProcess

BIN = pathlib.Path("/usr/lib/rabbitmq/bin")
NOBODY = 65534
ELECT = (
    "[ra:trigger_election(amqqueue:get_pid(Q)) ||"
    " Q <- rabbit_amqqueue:list(), amqqueue:get_type(Q) =:= rabbit_quorum_queue]."
)
ELECTIONS = 3
BETWEEN_ELECTIONS = dt.timedelta(seconds=1)
CLOCK = SystemClock()
START_WITHIN = dt.timedelta(seconds=90)
CONTROL_WITHIN = dt.timedelta(seconds=30)


def find_rabbitmq() -> pathlib.Path:
    """Return the folder of RabbitMQ's programs.

    Raises:
        UnavailableError: There is none.
    """
    other = os.environ.get("HUESHIFT_RABBITMQ_BIN")
    found = pathlib.Path(other) if other else BIN
    if (found / "rabbitmq-server").exists():
        return found
    raise UnavailableError(
        f"rabbitmq-server is missing: HUESHIFT_RABBITMQ_BIN={other} has none"
        if other
        else "rabbitmq-server is missing: install the Debian package rabbitmq-server"
    )


class RabbitServer:
    """One broker; each user of it has a virtual host of its own."""

    def __init__(self, bin_folder: pathlib.Path, folder: pathlib.Path) -> None:
        self.port, dist, epmd = free_ports(3)
        self._bin = bin_folder
        self._epmd = epmd
        # What root need not run, root does not run.
        self._drop = (
            ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
            if os.geteuid() == 0 and bin_folder == BIN
            else []
        )
        self._environment = {
            "HOME": str(folder),
            "RABBITMQ_NODENAME": f"test{self.port}@localhost",
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_DIST_PORT": str(dist),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(epmd),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        }
        self.process = ServerProcess(
            [*self._drop, str(bin_folder / "rabbitmq-server")],
            log_file=folder / "rabbitmq.out",
            environment=self._environment,
        )

    def url(self, vhost: str = "%2F") -> str:
        """Return a virtual host's address."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}/{vhost}"

    async def start(self) -> None:
        """Start it and wait until it answers."""
        await self.process.start()

        async def ask() -> bool | None:
            self.process.check_alive()
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                return None
            writer.close()  # its listener comes last
            return True

        await wait_for_answer(ask, what="RabbitMQ", clock=CLOCK, at_most=START_WITHIN)

    async def kill(self) -> None:
        """End it as a power cut would, and wait until nothing of it is left: the shell that we started dies first."""
        pid = _read(self._environment["RABBITMQ_PID_FILE"]).strip()
        await self.process.kill()

        async def is_gone() -> bool | None:
            state = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
            return True if not state or state[0] == "Z" else None

        await wait_for_answer(is_gone, what="RabbitMQ's end", clock=CLOCK, at_most=START_WITHIN)

    async def restart(self) -> None:
        """Start it after a kill, and have its queues elect their leaders.

        The quorum queues of a single node that was killed wait for a leader for ever (rabbitmq-server's issue 10070);
        this is the remedy that the README names. In a cluster the other nodes' members see to it.
        """
        await self.start()
        await self.control("await_startup")
        for _ in range(ELECTIONS):  # a queue may not be there yet; one that has a leader does not heed it
            await self.control("eval", ELECT)
            await CLOCK.sleep(BETWEEN_ELECTIONS)

    async def control(self, *words: str) -> None:
        """Run rabbitmqctl; again, while the broker does not know it yet."""

        async def run() -> bool | None:
            self.process.check_alive()
            done = await asyncio.create_subprocess_exec(
                *self._drop,
                str(self._bin / "rabbitmqctl"),
                "-q",
                *words,
                env={**os.environ, **self._environment},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            try:
                async with asyncio.timeout(CONTROL_WITHIN.total_seconds()):
                    return await done.wait() == 0 or None
            except TimeoutError:  # it asked a node that does not answer
                done.kill()
                await done.wait()
                return None

        await wait_for_answer(run, what=f"rabbitmqctl {words[0]}", clock=CLOCK, at_most=START_WITHIN)

    async def make_vhost(self) -> str:
        """Make a virtual host; return its address."""
        name = f"t{secrets.token_hex(4)}"
        await self.control("add_vhost", name)
        await self.control("set_permissions", "-p", name, "guest", ".*", ".*", ".*")
        return self.url(name)

    def end_epmd(self) -> None:
        """End Erlang's name server, which outlives the broker: the one on our own port."""
        own = self._bin / "epmd"
        command = [str(own) if own.exists() else "epmd", "-port", str(self._epmd), "-kill"]
        environment = {**os.environ, **self._environment}
        with contextlib.suppress(subprocess.TimeoutExpired, OSError):
            subprocess.run(command, env=environment, capture_output=True, timeout=20, check=False)


def _read(path: str) -> str:
    try:
        return pathlib.Path(path).read_text()
    except OSError:
        return ""


@contextlib.asynccontextmanager
async def running_rabbitmq() -> AsyncIterator[RabbitServer]:
    """Start a broker, and end all of it at the end.

    Raises:
        UnavailableError: It is not installed, or does not start.
    """
    found = find_rabbitmq()
    # Not in a folder of the caller's, which nobody but its owner may enter.
    with tempfile.TemporaryDirectory(prefix="hueshift-rabbitmq-", ignore_cleanup_errors=True) as name:
        folder = pathlib.Path(name)
        server = RabbitServer(found, folder)
        (folder / "enabled_plugins").write_text("[].")
        (folder / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{server.port}\nlog.console = true\nlog.file = false\n"
        )
        if os.geteuid() == 0:
            for path in (folder, folder / "enabled_plugins", folder / "rabbitmq.conf"):
                os.chown(path, NOBODY, NOBODY)
        try:
            await server.start()
            yield server
        finally:
            await server.process.stop()
            server.end_epmd()
