"""Commands for whoever runs the control plane: they work on this machine, not over the API."""

import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from controlplane.cli.options import Format, OutputOption, is_json

if TYPE_CHECKING:
    from controlplane.auth.keys import KeyRing
    from controlplane.settings import Settings

PANEL = "Operate"

DatabaseOption = Annotated[
    str | None,
    typer.Option("--database-url", help="sqlite:///FILE or postgresql://...; else HUESHIFT_DATABASE_URL.",
                 show_default=False),
]  # fmt: skip

keys = typer.Typer(
    no_args_is_help=True, help="API keys, straight in the database: so that the first one can be made without one."
)
database = typer.Typer(no_args_is_help=True, help="The database's schema.")


def serve(
    database_url: DatabaseOption = None,
    role: Annotated[str | None, typer.Option("--role", help="all, api, xds or controller.", show_default=False)] = None,
    api_port: Annotated[int | None, typer.Option("--api-port", help="REST; 8000.", show_default=False)] = None,
    xds_port: Annotated[int | None, typer.Option("--xds-port", help="ADS; 18000.", show_default=False)] = None,
    telemetry_port: Annotated[
        int | None, typer.Option("--telemetry-port", help="Envoy's metrics; 18001.", show_default=False)
    ] = None,
) -> None:
    """Run the control plane. Everything else is set by HUESHIFT_* variables; controlplane/settings.py explains each.

    The first start makes the database and an API key, and says in which file the key is.
    """
    import asyncio  # noqa: PLC0415 - see main

    from controlplane import wiring  # noqa: PLC0415

    settings = _settings(
        database_url=database_url, role=role, api_port=api_port, xds_port=xds_port, telemetry_port=telemetry_port
    )
    asyncio.run(wiring.serve(settings))


# -- the database ------------------------------------------------------------------------------------------------------


@database.command()
def upgrade(database_url: DatabaseOption = None) -> None:
    """Create the schema, or bring it up to this release. A release before this one can go on working with it."""
    import asyncio  # noqa: PLC0415

    from controlplane.store import schema  # noqa: PLC0415

    settings = _settings(database_url=database_url)
    if not settings.database_url:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
    asyncio.run(schema.upgrade(settings.sql_url))
    state = asyncio.run(schema.current(settings.sql_url))
    print(f"the database is at revision {state.revision}")


@database.command()
def current(database_url: DatabaseOption = None, output: OutputOption = Format.TABLE) -> None:
    """Say at which revision the schema is. Exit code 1 when this release needs an upgrade first."""
    import asyncio  # noqa: PLC0415
    import dataclasses  # noqa: PLC0415

    from controlplane.store import schema  # noqa: PLC0415

    state = asyncio.run(schema.current(_settings(database_url=database_url).sql_url))
    if is_json(output):
        from controlplane.cli import output as printing  # noqa: PLC0415

        printing.print_json({**dataclasses.asdict(state), "is_behind": state.is_behind})
    elif state.is_behind:
        print(f"at {state.revision or 'nothing'}, this release needs {state.head}: run hueshift db upgrade")
    else:
        print(f"at {state.revision}, as this release needs it")
    raise typer.Exit(int(state.is_behind))


# -- keys --------------------------------------------------------------------------------------------------------------


@keys.command()
def create(
    name: Annotated[str, typer.Argument(help="Who will use it: the actor in the audit.", show_default=False)],
    database_url: DatabaseOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Make a key and print it, once: only its digest is kept."""
    import asyncio  # noqa: PLC0415
    import sys  # noqa: PLC0415

    async def work() -> str:
        async with _key_ring(database_url) as ring:
            return await ring.create(name)

    key = asyncio.run(work())
    if is_json(output):
        from controlplane.cli import output as printing  # noqa: PLC0415

        printing.print_json({"name": name, "key": key})
        return
    print(key)
    print(f"keep it: it cannot be shown again. Use it as HUESHIFT_API_KEY; it acts as {name!r}.", file=sys.stderr)


@keys.command("list")
def list_keys(database_url: DatabaseOption = None, output: OutputOption = Format.TABLE) -> None:
    """List all keys by name and first characters."""
    import asyncio  # noqa: PLC0415

    from controlplane.cli import output as printing  # noqa: PLC0415
    from controlplane.ports import ApiKey  # noqa: PLC0415

    async def work() -> tuple[ApiKey, ...]:
        async with _key_ring(database_url) as ring:
            return await ring.store.list_keys()

    found = asyncio.run(work())
    if is_json(output):
        printing.print_json({"keys": [_key_row(key) for key in found]})
    elif found:
        printing.console().print(printing.rows_table([_key_row(key) for key in found]))
    else:
        print("there is no key yet; make one with: hueshift keys create NAME")


@keys.command()
def revoke(
    name: Annotated[str, typer.Argument(help="Whose key ends.", show_default=False)],
    database_url: DatabaseOption = None,
) -> None:
    """End a key at once."""
    import asyncio  # noqa: PLC0415

    async def work() -> None:
        async with _key_ring(database_url) as ring:
            await ring.revoke(name)

    asyncio.run(work())
    print(f"the key of {name!r} is revoked")


def _key_row(key: Any) -> dict[str, str]:
    return {
        "name": key.name,
        "prefix": f"{key.prefix}...",
        "created": key.created_at.isoformat(timespec="seconds"),
        "revoked": key.revoked_at.isoformat(timespec="seconds") if key.revoked_at else "",
    }


@contextlib.asynccontextmanager
async def _key_ring(database_url: str | None) -> "AsyncIterator[KeyRing]":
    from controlplane.auth.keys import KeyRing  # noqa: PLC0415
    from controlplane.clock import SystemClock  # noqa: PLC0415
    from controlplane.store import open_store  # noqa: PLC0415
    from controlplane.wake import WakeBoard  # noqa: PLC0415

    clock = SystemClock()
    store = await open_store(_settings(database_url=database_url).sql_url, board=WakeBoard(), clock=clock)
    async with store:
        yield KeyRing(store=store, clock=clock)


# -- Envoy -------------------------------------------------------------------------------------------------------------


def register(app: typer.Typer) -> None:
    """Add these commands to *app*."""
    app.command(rich_help_panel=PANEL)(serve)
    app.add_typer(database, name="db", rich_help_panel=PANEL)
    app.add_typer(keys, name="keys", rich_help_panel=PANEL)


def _settings(**overrides: Any) -> "Settings":
    from controlplane.settings import read_settings  # noqa: PLC0415

    return read_settings(**overrides)
