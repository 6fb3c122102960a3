"""The wait until a control plane, or a service behind its Envoys, can be used: what scripts would write loops for."""

from typing import TYPE_CHECKING, Annotated, Final

import typer

from controlplane.cli.options import surroundings_of
from controlplane.errors import InvalidInputError, UnavailableError

if TYPE_CHECKING:
    from controlplane.cli.surroundings import Surroundings

POLL_S: Final = 0.25
UNAUTHORIZED: Final = 401


def ready(
    context: typer.Context,
    name: Annotated[
        str | None, typer.Argument(help="A service; without one, only the control plane is asked.", show_default=False)
    ] = None,
    timeout: Annotated[str, typer.Option("--timeout", help="How long to wait at most, as 90s or 5m.")] = "1m",
) -> int:
    """Wait until the control plane can be used, or a service has Envoys that run it and healthy workers.

    Says on standard error what it waits for. Exit code 0: it is ready; 3: it was not in time.

    Example: hueshift ready colorize --timeout 2m
    """
    from controlplane.api import units  # noqa: PLC0415 - see main

    try:
        patience_s = units.parse_span(timeout).total_seconds()
    except units.UnitError as exc:
        raise InvalidInputError("--timeout", exc.problem, exc.fix) from exc
    surroundings = surroundings_of(context)
    give_up = surroundings.steady() + patience_s
    said = ""
    while words := _missing(surroundings, name):
        if surroundings.steady() >= give_up:
            raise UnavailableError(f"not ready within {timeout}: {words}")
        if words != said:
            typer.echo(f"waiting: {words}", err=True)
            said = words
        surroundings.sleep(POLL_S)
    typer.echo(f"{name or 'the control plane'} is ready")
    return 0


def _missing(surroundings: "Surroundings", name: str | None) -> str:
    """Say what is still missing; "" when nothing is. The key is looked for each time: the first start writes it."""
    from controlplane.api.answers import StatusView  # noqa: PLC0415
    from controlplane.cli.client import RefusalError  # noqa: PLC0415

    try:
        with surroundings.client() as client:
            if name is None:
                client.get(object, "services")
                return ""
            status = client.get(StatusView, "services", name, "status")
    except RefusalError as exc:
        if exc.status != UNAUTHORIZED or surroundings.environment.get("HUESHIFT_API_KEY"):
            raise
        return str(exc)
    except UnavailableError as exc:
        return str(exc)
    if not status.acks.expected:
        return "no Envoy is connected; start one with: hueshift envoy --node-id NAME"
    if status.acks.acked < status.acks.expected:
        return f"{status.acks.acked} of {status.acks.expected} Envoys run it"
    unhealthy = [share.version for share in status.split if share.weight_bp and not share.healthy]
    return f"no Envoy finds a healthy worker of {', '.join(unhealthy)}" if unhealthy else ""


def register(app: typer.Typer) -> None:
    """Add the command to *app*."""
    app.command()(ready)
