"""`hueshift notify`: who is told what becomes of rollouts, in chats, by mail, or by signed webhooks."""

from typing import Annotated

import typer

from controlplane.cli.formats import Format, for_programs
from controlplane.cli.options import OutputOption, Yes, surroundings_of

notify = typer.Typer(
    no_args_is_help=True, help="Whom to tell of rollouts: list, set, remove, secret, test, deliveries, replay."
)

Service = Annotated[str, typer.Argument(help="The service's name, or '*' for all.", show_default=False)]
Name = Annotated[str, typer.Argument(help="The target's name.", show_default=False)]


def register(app: typer.Typer) -> None:
    """Add the commands to *app*."""
    app.add_typer(notify, name="notify")


@notify.command("list")
def list_targets(context: typer.Context, output: OutputOption = Format.TABLE) -> None:
    """List the targets of the services whose admin you are."""
    from controlplane.api.notify_schemas import TargetView  # noqa: PLC0415
    from controlplane.cli import output as printing  # noqa: PLC0415

    surroundings = surroundings_of(context)
    with surroundings.client() as client:
        found = client.get_all(TargetView, "notifications")
    if for_programs(output):
        printing.print_data(found, output)
    elif found:
        table = printing.new_table("SERVICE", "TARGET", "ADDRESS", "KINDS", "SIGNED")
        for each in found:
            address = printing.clean(each.address) or "gates of plans"
            table.add_row(each.service, each.target, address, ", ".join(each.kinds), "yes" if each.signed else "no")
        printing.print_page(table, color=surroundings.color)
    else:
        print("nobody is told; tell somebody: hueshift notify set SERVICE NAME ADDRESS")


@notify.command("set")
def set_target(
    context: typer.Context,
    service: Service,
    name: Name,
    address: Annotated[
        str, typer.Argument(help="An http or https URL, or Apprise's: slack://…; not for `gate`.", show_default=False)
    ] = "",
    kind: Annotated[
        list[str] | None,
        typer.Option("--kind", help="What is told; may be repeated. Without: everything.", show_default=False),
    ] = None,
    links: Annotated[  # noqa: FBT002 - a flag of the command line
        bool, typer.Option("--links/--no-links", help="Whether messages at gates carry links that approve and reject.")
    ] = True,
    output: OutputOption = Format.TABLE,
) -> None:
    """Tell somebody of a service's rollouts, or change who is told what.

    A secret that was made for a webhook is printed this once. The target `gate` has no address: its secret signs what
    gates of plans are asked.
    """
    from controlplane.api.notify_schemas import TargetAppliedView  # noqa: PLC0415
    from controlplane.cli import output as printing  # noqa: PLC0415

    body: dict[str, object] = {"address": address, "links": links}
    if kind:
        body["kinds"] = kind
    with surroundings_of(context).client() as client:
        applied = client.put(TargetAppliedView, "notifications", service, name, body=body)
    if for_programs(output):
        printing.print_data(applied, output)
        return
    print(applied.words)
    if applied.secret is not None:
        print(f"  its secret, shown this once: {applied.secret}")


@notify.command()
def remove(context: typer.Context, service: Service, name: Name, yes: Yes = False) -> None:  # noqa: FBT002 - a flag
    """Tell somebody no more; links that were sent there open nothing any more."""
    from controlplane.cli.confirming import confirm  # noqa: PLC0415

    confirm(f"target {service}/{name} goes, with what was not told yet,", yes=yes)
    with surroundings_of(context).client() as client:
        client.delete("notifications", service, name)
    print(f"{service}/{name} is told no more")


@notify.command("secret")
def renew_secret(context: typer.Context, service: Service, name: Name, output: OutputOption = Format.TABLE) -> None:
    """Make a new secret and print it, this once; the one before signs, too, for a day."""
    from controlplane.api.notify_schemas import TargetSecretView  # noqa: PLC0415
    from controlplane.cli import output as printing  # noqa: PLC0415

    with surroundings_of(context).client() as client:
        made = client.post(TargetSecretView, "notifications", service, name, "secret", body={})
    if for_programs(output):
        printing.print_data(made, output)
    else:
        print(made.secret)


@notify.command("test")
def check_target(context: typer.Context, service: Service, name: Name, output: OutputOption = Format.TABLE) -> None:
    """Send a target a message that is of no rollout, now. Exit code 1 says that it was not delivered."""
    from controlplane.api.notify_schemas import TargetTestView  # noqa: PLC0415
    from controlplane.cli import output as printing  # noqa: PLC0415
    from controlplane.cli.client import ExitCode  # noqa: PLC0415

    with surroundings_of(context).client() as client:
        tested = client.post(TargetTestView, "notifications", service, name, "test", body={})
    if for_programs(output):
        printing.print_data(tested, output)
    else:
        print(printing.clean(f"{tested.target}: {tested.words}"))
    if not tested.delivered:
        raise typer.Exit(ExitCode.NEGATIVE)


@notify.command()
def deliveries(
    context: typer.Context,
    service: Service,
    name: Name,
    limit: Annotated[int, typer.Option("--limit", min=1, max=200, help="How many, newest first.")] = 50,
    output: OutputOption = Format.TABLE,
) -> None:
    """List what a target was or is to be told, newest first."""
    from controlplane.api.notify_schemas import DeliveryView  # noqa: PLC0415
    from controlplane.cli import output as printing  # noqa: PLC0415

    surroundings = surroundings_of(context)
    with surroundings.client() as client:
        found = client.get_page(DeliveryView, "notifications", service, name, "deliveries", limit=limit).items
    if for_programs(output):
        printing.print_data(found, output)
        return
    table = printing.new_table("NUMBER", "KIND", "ROLLOUT", "STATE", "TRIES", "WHAT HAPPENED")
    for each in found:
        state = "delivered" if each.delivered else f"{'waits' if each.ended_at is None else 'given up'}: {each.words}"
        cells = (str(each.number), each.kind, each.rollout, state.removesuffix(": "), str(each.tries), each.sentence)
        table.add_row(*map(printing.clean, cells))
    printing.print_page(table, color=surroundings.color)


@notify.command()
def replay(
    context: typer.Context,
    service: Service,
    name: Name,
    number: Annotated[int, typer.Argument(help="Its number in `deliveries`.", show_default=False, min=1)],
) -> None:
    """Tell a target something again, however often it was told."""
    from controlplane.api.notify_schemas import TargetTestView  # noqa: PLC0415

    with surroundings_of(context).client() as client:
        told = client.post(TargetTestView, "notifications", service, name, "deliveries", str(number), "replay", body={})
    print(told.words)
