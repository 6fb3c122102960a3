"""`hueshift keys`: make and end API keys, and say what each may do. Works on the database, so the first needs none."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from controlplane.cli.formats import Format, for_programs
from controlplane.cli.local import DatabaseOption, existing_url
from controlplane.cli.options import OutputOption, Why, Yes
from controlplane.errors import InvalidInputError, NotFoundError

if TYPE_CHECKING:
    from controlplane.auth.keys import KeyRing
    from controlplane.auth.ports import ApiKey
    from controlplane.auth.roles import Grant

T = TypeVar("T")

keys = typer.Typer(
    no_args_is_help=True, help="Make and end API keys. Works on the database, so that the first one needs none."
)

KeyName = Annotated[str, typer.Argument(help="The key's name.", show_default=False)]
RoleOption = Annotated[
    str | None, typer.Option("--role", help="viewer, operator, approver or admin.", show_default=False)
]
ServiceOption = Annotated[
    list[str] | None,
    typer.Option("--service", help="The role is for this service; may be repeated. Without: all services.",
                 show_default=False),
]  # fmt: skip
GrantOption = Annotated[
    list[str] | None,
    typer.Option("--grant", help="A role and a service at once, operator:colorize; may be repeated.",
                 show_default=False),
]  # fmt: skip


@keys.command()
def create(
    name: Annotated[str, typer.Argument(help="Who will use it: the actor in the audit.", show_default=False)],
    role: RoleOption = None,
    service: ServiceOption = None,
    grant: GrantOption = None,
    jobs_only: Annotated[  # noqa: FBT002 - a flag of the command line
        bool, typer.Option("--jobs-only", help="No role at all: jobs of its own only.")
    ] = False,
    why: Why = "",
    database_url: DatabaseOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Make a key and print it, once: only its digest is kept. Without a role it may do everything.

    Example: hueshift keys create ci --role operator --service colorize
    """
    import sys  # noqa: PLC0415

    from controlplane.auth.roles import EVERYTHING  # noqa: PLC0415

    given = _grants(role, service, grant)
    if jobs_only and given:
        raise InvalidInputError("--jobs-only", "is given beside a role", "give one of them")
    grants = given or (() if jobs_only else EVERYTHING)
    key = _on_ring(database_url, lambda ring: ring.create(name, grants, why=why))
    if for_programs(output):
        from controlplane.cli import output as printing  # noqa: PLC0415

        printing.print_data({"name": name, "key": key, "grants": [str(each) for each in grants]}, output)
        return
    print(key)
    print(
        f"keep it: it cannot be shown again. Use it as HUESHIFT_API_KEY; it acts as {name!r} and may:"
        f" {_shown(grants)}.",
        file=sys.stderr,
    )


@keys.command("list")
def list_keys(database_url: DatabaseOption = None, output: OutputOption = Format.TABLE) -> None:
    """List all keys by name and first characters, with what each may do.

    Example: hueshift keys list -o json
    """
    from controlplane.cli import output as printing  # noqa: PLC0415

    found = _on_ring(database_url, lambda ring: ring.store.list_keys())
    if for_programs(output):
        printing.print_data(
            {"keys": [{**_key_row(key), "grants": [str(each) for each in key.may]} for key in found]}, output
        )
    elif found:
        printing.print_page(printing.rows_table([_key_row(key) for key in found]))
    else:
        print("there is no key yet; make one with: hueshift keys create NAME")


@keys.command()
def revoke(
    name: KeyName,
    why: Why = "",
    database_url: DatabaseOption = None,
    yes: Yes = False,  # noqa: FBT002 - a flag of the command line
) -> None:
    """End a key at once, with the sessions that it opened.

    Example: hueshift keys revoke ci --reason "left the team" --yes
    """
    from controlplane.cli.confirming import confirm  # noqa: PLC0415

    confirm(f"the key of {name!r} ends", yes=yes)
    _on_ring(database_url, lambda ring: ring.revoke(name, why=why))
    print(f"the key of {name!r} is revoked")


@keys.command("grant")
def add_grants(
    name: KeyName,
    role: RoleOption = None,
    service: ServiceOption = None,
    grant: GrantOption = None,
    why: Why = "",
    database_url: DatabaseOption = None,
) -> None:
    """Let a key do more, from its next request on.

    Example: hueshift keys grant ci --role approver --service colorize
    """
    given = _needed(_grants(role, service, grant))

    async def work(ring: "KeyRing") -> "tuple[Grant, ...]":
        return await ring.set_grants(name, (*(await ring.find(name)).may, *given), why=why)

    print(f"{name!r} may: {_shown(_on_ring(database_url, work))}")


@keys.command("ungrant")
def take_grants(
    name: KeyName,
    role: RoleOption = None,
    service: ServiceOption = None,
    grant: GrantOption = None,
    why: Why = "",
    database_url: DatabaseOption = None,
) -> None:
    """Take roles from a key, at once. A key without any may still hand in jobs of its own.

    Example: hueshift keys ungrant ci --role approver --service colorize
    """
    given = _needed(_grants(role, service, grant))

    async def work(ring: "KeyRing") -> "tuple[Grant, ...]":
        had = (await ring.find(name)).may
        missing = [each for each in given if each not in had]
        if missing:
            raise NotFoundError(f"grant of {name!r}", str(missing[0]), tuple(str(each) for each in had))
        return await ring.set_grants(name, [each for each in had if each not in given], why=why)

    print(f"{name!r} may: {_shown(_on_ring(database_url, work))}")


def _grants(role: str | None, services: Sequence[str] | None, grants: Sequence[str] | None) -> "tuple[Grant, ...]":
    from controlplane.auth.roles import EVERY, Grant, check_service, read_grant, read_role  # noqa: PLC0415

    if services and role is None:
        raise InvalidInputError("--service", "is given without a role", "add --role viewer, or another one")
    found = [read_grant(each, field="--grant") for each in grants or ()]
    if role is not None:
        meant = read_role(role, field="--role")
        found += [Grant(meant, check_service(each, field="--service")) for each in services or (EVERY,)]
    return tuple(found)


def _needed(grants: "tuple[Grant, ...]") -> "tuple[Grant, ...]":
    if not grants:
        raise InvalidInputError("--role", "is not given", "say which: --role operator --service colorize")
    return grants


def _shown(grants: "tuple[Grant, ...]") -> str:
    return ", ".join(str(grant) for grant in grants) or "hand in jobs of its own, and nothing else"


def _key_row(key: "ApiKey") -> dict[str, str]:
    return {
        "name": key.name,
        "prefix": f"{key.prefix}...",
        "grants": ", ".join(str(grant) for grant in key.may) or "-",
        "created": key.created_at.isoformat(timespec="seconds"),
        "revoked": key.revoked_at.isoformat(timespec="seconds") if key.revoked_at else "",
    }


def _on_ring(database_url: str | None, work: "Callable[[KeyRing], Awaitable[T]]") -> T:
    import asyncio  # noqa: PLC0415 - see main

    async def call() -> T:
        async with _key_ring(database_url) as ring:
            return await work(ring)

    return asyncio.run(call())


@contextlib.asynccontextmanager
async def _key_ring(database_url: str | None) -> "AsyncIterator[KeyRing]":
    from controlplane.auth.keys import KeyRing  # noqa: PLC0415
    from controlplane.clock import SystemClock  # noqa: PLC0415
    from controlplane.store import open_store  # noqa: PLC0415
    from controlplane.wake import WakeBoard  # noqa: PLC0415

    clock = SystemClock()
    store = await open_store(existing_url(database_url), board=WakeBoard(), clock=clock)
    async with store:
        yield KeyRing(store=store, clock=clock)


def register(app: typer.Typer) -> None:
    """Add these commands to *app*."""
    app.add_typer(keys, name="keys")
