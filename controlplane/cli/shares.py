"""`hueshift shares`: links with which people without an account look at one service."""

import datetime as dt
from typing import TYPE_CHECKING, Annotated

import typer

from controlplane.cli.formats import Format, for_programs
from controlplane.cli.options import OutputOption, Service, Why, Yes, surroundings_of
from controlplane.errors import InvalidInputError

if TYPE_CHECKING:
    from controlplane.api.access_schemas import ShareLinkView

shares = typer.Typer(no_args_is_help=True, help="Links that let people without an account look at one service.")


@shares.command()
def create(
    context: typer.Context,
    service: Service,
    rollout: Annotated[
        str | None, typer.Option("--rollout", help="Open at this rollout, not at the service.", show_default=False)
    ] = None,
    expires_in: Annotated[str, typer.Option("--expires-in", help="How long it opens, at most 90d.")] = "7d",
    why: Why = "",
    output: OutputOption = Format.TABLE,
) -> None:
    """Make a link and print it, once: only its digest is kept. Takes an operator of the service.

    Whoever opens it may look at this one service and at nothing else, until it expires or is revoked.

    Example: hueshift shares create colorize --rollout colorize-7 --expires-in 2d --reason "for the review"
    """
    import sys  # noqa: PLC0415

    from controlplane.api import units  # noqa: PLC0415 - see main
    from controlplane.api.access_schemas import CreatedShareLinkView  # noqa: PLC0415
    from controlplane.cli import output as printing  # noqa: PLC0415

    try:
        units.parse_span(expires_in)
    except units.UnitError as exc:
        raise InvalidInputError("--expires-in", exc.problem, exc.fix) from exc
    body = {"service": service, "rollout": rollout, "expires_in": expires_in, "why": why}
    with surroundings_of(context).client() as client:
        made = client.post(CreatedShareLinkView, "shares", body=body)
    if for_programs(output):
        printing.print_data(made, output)
        return
    print(made.url)
    print(
        f"keep it: it cannot be shown again. It shows {made.service} until {_minute(made.expires_at)};"
        f" end it sooner with: hueshift shares revoke {made.id}",
        file=sys.stderr,
    )


@shares.command("list")
def list_shares(context: typer.Context, output: OutputOption = Format.TABLE) -> None:
    """List the links to services whose operator you are, live and ended, newest first.

    Example: hueshift shares list -o json
    """
    from controlplane.api.access_schemas import ShareLinkView  # noqa: PLC0415
    from controlplane.cli import output as printing  # noqa: PLC0415

    surroundings = surroundings_of(context)
    with surroundings.client() as client:
        found = client.get_all(ShareLinkView, "shares")
    if for_programs(output):
        printing.print_data(found, output)
    elif found:
        table = printing.new_table("ID", "SERVICE", "ROLLOUT", "STATE", "MADE BY", "WHY")
        for each in found:
            cells = (each.id, each.service, each.rollout or "-", _state(each, surroundings.now()), each.by, each.why)
            table.add_row(*map(printing.clean, cells))
        printing.print_page(table, color=surroundings.color)
    else:
        print("there is no link; make one with: hueshift shares create SERVICE")


@shares.command()
def revoke(
    context: typer.Context,
    share: Annotated[str, typer.Argument(help="The link's id, as in `list`.", show_default=False)],
    why: Why = "",
    yes: Yes = False,  # noqa: FBT002 - a flag of the command line
) -> None:
    """End a link at once, with the sessions that it opened.

    Example: hueshift shares revoke 5c1f2a90 --reason "the review is over" --yes
    """
    from controlplane.cli.confirming import confirm  # noqa: PLC0415

    confirm(f"link {share} opens nothing any more", yes=yes)
    with surroundings_of(context).client() as client:
        client.delete("shares", share, reason=why)
    print(f"link {share} is revoked")


def _state(share: "ShareLinkView", now: dt.datetime) -> str:
    if share.revoked_at is not None:
        return f"revoked {_minute(share.revoked_at)}"
    return f"{'opens until' if now < share.expires_at else 'expired'} {_minute(share.expires_at)}"


def _minute(moment: dt.datetime) -> str:
    return f"{moment.astimezone(dt.UTC):%Y-%m-%d %H:%M} UTC"


def register(app: typer.Typer) -> None:
    """Add these commands to *app*."""
    app.add_typer(shares, name="shares")
