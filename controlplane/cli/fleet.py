"""The commands that look at Envoys: who is there, what each of them runs, and how that differs from what it should."""

import enum
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from controlplane.cli.formats import Format, for_programs
from controlplane.cli.options import OutputOption, surroundings_of

if TYPE_CHECKING:
    from controlplane.api.fleet_answers import ProxyConfigView, ProxyView


class State(enum.StrEnum):
    """How an Envoy is with a resource type."""

    SYNCED = "synced"
    STALE = "stale"
    NACKED = "nacked"
    NOT_SENT = "not-sent"


class What(enum.StrEnum):
    """What to show of an Envoy."""

    SUMMARY = "summary"
    LISTENERS = "listeners"
    ROUTES = "routes"
    CLUSTERS = "clusters"
    ENDPOINTS = "endpoints"
    DIFF = "diff"


KINDS = {What.LISTENERS: "lds", What.ROUTES: "rds", What.CLUSTERS: "cds", What.ENDPOINTS: "eds"}


def proxies(
    context: typer.Context,
    state: Annotated[
        State | None,
        typer.Option("--state", help="Only Envoys that are like this with some type.", case_sensitive=False),
    ] = None,
    group: Annotated[
        str | None, typer.Option("--group", help="Only Envoys that belong to this group.", show_default=False)
    ] = None,
    check: Annotated[  # noqa: FBT002 - a flag of the command line
        bool, typer.Option("--check", help="Exit code 1 unless there are connected Envoys and all of them are SYNCED.")
    ] = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """Show every Envoy and what it runs.

    Per resource type, with how long that has been so and the version that it runs:

    SYNCED: it runs what it should. STALE: it has not acknowledged the newest yet. NACKED: it refused it, in its own
    words. NOT SENT: it has not been given this type. An Envoy that is not listed never connected.
    """
    from controlplane.api.fleet_answers import ProxyView  # noqa: PLC0415 - see main
    from controlplane.cli import fleet_table  # noqa: PLC0415
    from controlplane.cli import output as printing  # noqa: PLC0415

    surroundings = surroundings_of(context)
    part = {"group": group} if group is not None else {}
    chosen = {"state": state.value.replace("-", " ").upper()} if state else {}
    with surroundings.client() as client:
        found = client.get_all(ProxyView, "proxies", **part, **chosen)
        everyone = client.get_all(ProxyView, "proxies", **part) if check and chosen else found
    if for_programs(output):
        printing.print_data(found, output)
    elif found:
        page = fleet_table.fleet_page(found, wide=output is Format.WIDE)
        printing.print_page(page, color=surroundings.color)
    elif part or chosen:
        words = [*(f"of group {group}" for group in part.values()), *chosen.values()]
        print(f"no Envoy is {' and '.join(words)}")
    else:
        print("no Envoy has connected yet; start one with: hueshift envoy --node-id NAME")
    if check:
        raise typer.Exit(_check(everyone))


def proxy(
    context: typer.Context,
    node: Annotated[str, typer.Argument(help="The Envoy's node id.", show_default=False)],
    what: Annotated[What, typer.Argument(help="What to show of it.", case_sensitive=False)] = What.SUMMARY,
    output: OutputOption = Format.TABLE,
) -> None:
    """Show what one Envoy runs: what it has acknowledged, not what it should run.

    As JSON or YAML: the resources themselves, as Envoy's own config_dump writes them.

    diff compares that with what it should run now. Exit code 0: no difference. 1: there is one.
    """
    from controlplane.api.fleet_answers import ProxyConfigView  # noqa: PLC0415
    from controlplane.cli import fleet_pages  # noqa: PLC0415
    from controlplane.cli import output as printing  # noqa: PLC0415

    surroundings = surroundings_of(context)
    query = {"type": KINDS[what]} if what in KINDS else {}
    with surroundings.client() as client:
        config = client.get(ProxyConfigView, "proxies", node, "resources", **query)
    if for_programs(output):
        printing.print_data(_plain(config, what), output)
    else:
        page = fleet_pages.proxy_page(config, what.value, wide=output is Format.WIDE)
        printing.print_page(page, color=surroundings.color)
    if what is What.DIFF and fleet_pages.differences(config):
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Add these commands to *app*."""
    app.command()(proxies)
    app.command()(proxy)


def _plain(config: "ProxyConfigView", what: What) -> "dict[str, Any] | list[dict[str, Any]]":
    """Return what programs read: the resources as they are, the differences, or everything but the resources."""
    from controlplane.cli import fleet_pages  # noqa: PLC0415

    match what:
        case What.SUMMARY:
            return config.model_dump(mode="json", exclude={"types": {"__all__": {"resources"}}})
        case What.DIFF:
            return [difference.plain() for difference in fleet_pages.differences(config)]
        case _:
            return [held.resource for each in config.types for held in each.resources if held.resource is not None]


def _check(everyone: "Sequence[ProxyView]") -> int:
    """Return the exit code: a fleet of nobody is not in sync, as no weight is live there."""
    connected = [found for found in everyone if found.connected]
    behind = [found.node for found in connected if not found.synced]
    if behind:
        print(f"hueshift: not in sync: {', '.join(behind)}", file=sys.stderr)
    elif not connected:
        print("hueshift: no Envoy is connected", file=sys.stderr)
    return int(bool(behind) or not connected)
