"""Host names of endpoints become addresses here, because Envoy's endpoint discovery takes IP addresses only."""

import asyncio
import dataclasses
import datetime as dt
import socket

import structlog

from controlplane.clock import Clock
from controlplane.errors import ControlPlaneError
from controlplane.ports import Desired, DesiredStore
from controlplane.wake import Wake

log = structlog.get_logger()

LOOKUP_TIMEOUT = dt.timedelta(seconds=3)


@dataclasses.dataclass(slots=True, kw_only=True)
class Resolver:
    """Looks up every endpoint's host name again and again; a name that stops resolving keeps its last addresses."""

    store: DesiredStore
    clock: Clock
    wake: Wake
    interval: dt.timedelta

    async def run(self) -> None:
        """Resolve at every wake-up and every *interval*, for ever."""
        while True:
            try:
                await self.resolve()
            except ControlPlaneError:
                log.warning("addresses.not_saved", exc_info=True)
            await self.wake.wait(self.interval)

    async def resolve(self) -> None:
        """Look every name up once and save what changed."""
        desired = await self.store.load_desired()
        names = host_names(desired)
        found = dict(desired.addresses)
        for name in names:
            addresses = await _look_up(name)
            if addresses:
                found[name] = addresses
        wanted = {name: found[name] for name in names if name in found}
        if wanted != dict(desired.addresses):
            await self.store.save_addresses(wanted, now=self.clock.now())


def host_names(desired: Desired) -> tuple[str, ...]:
    """Return the endpoints' hosts that are names, not addresses, each once."""
    hosts = {
        endpoint.host
        for service in desired.services
        for version in service.revision.spec.versions
        for endpoint in version.endpoints
        if not endpoint.is_address
    }
    return tuple(sorted(hosts))


async def _look_up(name: str) -> tuple[str, ...]:
    try:
        async with asyncio.timeout(LOOKUP_TIMEOUT.total_seconds()):
            answers = await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, TimeoutError) as exc:
        log.warning("address.not_found", host=name, error=str(exc) or "timed out")
        return ()
    return tuple(sorted({str(address[0]) for *_, address in answers}))
