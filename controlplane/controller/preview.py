"""A declaration is tried before anything is stored: compiled, checked, and shown to a real Envoy where there is one."""

import dataclasses
from collections.abc import Sequence

from controlplane.errors import InvalidInputError
from controlplane.ports import ConfigCheck, ConfigCompiler
from controlplane.traffic.model import Route, ServedService, ServiceSpec, TrafficPlan

MAX_QUESTIONS = 20
"""Routes that are tried by themselves to find the one that Envoy means; each takes it 0.2 s."""


@dataclasses.dataclass(slots=True, kw_only=True)
class Preview:
    """Says of services that nobody serves yet whether an Envoy would take them; *check* is None where there is none."""

    compiler: ConfigCompiler
    check: ConfigCheck | None = None

    async def refuse(self, *specs: ServiceSpec) -> None:
        """Refuse services that could not be served beside each other.

        Raises:
            InvalidInputsError: Our own checks find something wrong, all of it is listed.
            InvalidInputError: Envoy finds something wrong; the text has its words.
        """
        words = await self._refusal(specs)
        if words is None:
            return
        field = await self._culprit(specs)
        raise InvalidInputError(field, f"Envoy refuses it: {words}", "change it; a regex has RE2's syntax")

    async def _refusal(self, specs: Sequence[ServiceSpec]) -> str | None:
        config = self.compiler.compile(
            TrafficPlan(tuple(ServedService(spec, spec.initial_split) for spec in specs), {})
        )
        return None if self.check is None else await self.check.refusal(config)

    async def _culprit(self, specs: Sequence[ServiceSpec]) -> str:
        """Return the path of what Envoy means: its words rarely name a place of ours."""
        for spec in specs:
            if len(specs) > 1 and await self._refusal((spec,)) is None:
                continue
            for route in spec.routes[:MAX_QUESTIONS]:
                if await self._refusal((_only(spec, route),)) is not None:
                    return f"routes.{route.name}"
            return f"service.{spec.name}"
        return "services"


def _only(spec: ServiceSpec, route: Route) -> ServiceSpec:
    """Return *spec* with *route* and as little else as a service needs: a route to its split without conditions."""
    rest = next(each for each in spec.routes if each.version is None)
    plain = dataclasses.replace(rest, name="split", match=type(rest.match)())
    return dataclasses.replace(spec, routes=(dataclasses.replace(route, name="route"), plain))
