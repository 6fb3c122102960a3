"""`hueshift quality`: do two versions colour the same photos alike, and is the new one broken? Asked, or looked up."""

import pathlib
from typing import Annotated

import typer

from controlplane.cli.formats import Format
from controlplane.cli.options import OutputOption, surroundings_of
from controlplane.errors import InvalidInputError

quality = typer.Typer(no_args_is_help=True, help="Compare the pictures of two versions on a fixed set of photos.")

VERSION_HELP = "A version of --service, the address of a worker, or a folder of pictures named like the photos."


@quality.command()
def compare(  # noqa: PLR0913, PLR0917 - one per option of the command line
    context: typer.Context,
    old: Annotated[str, typer.Argument(help=f"What runs now. {VERSION_HELP}", show_default=False)],
    new: Annotated[str, typer.Argument(help="What is to replace it, named likewise.", show_default=False)],
    service: Annotated[
        str | None, typer.Option("--service", help="The service whose versions they are.", show_default=False)
    ] = None,
    through: Annotated[
        str | None,
        typer.Option(
            "--through",
            help="Envoy's address: ask through the routes that pin each version by header, not the workers directly.",
            show_default=False,
        ),
    ] = None,
    path: Annotated[str, typer.Option("--path", help="Where workers take photos.")] = "/repair",
    photos: Annotated[
        pathlib.Path | None,
        typer.Option("--photos", help="A folder of your own photos, instead of the shipped 66.", show_default=False),
    ] = None,
    strata: Annotated[
        str, typer.Option("--strata", help="Only these: person,building,landscape,other.", show_default=False)
    ] = "",
    out: Annotated[pathlib.Path, typer.Option("--out", help="Where the report and the contact sheet go.")] = (
        pathlib.Path("var/quality")
    ),
    parallel: Annotated[int, typer.Option("--parallel", min=1, max=64, help="Photos under way at once.")] = 2,
    timeout: Annotated[str, typer.Option("--timeout", help="The longest that one picture may take.")] = "60s",
    delta_e: Annotated[
        float | None, typer.Option("--delta-e", min=0, help="Mean CIEDE2000 allowed; 3 by default.", show_default=False)
    ] = None,
    hue: Annotated[
        float | None,
        typer.Option("--hue", min=0, help="Mean turn of hues allowed, in degrees; 10 by default.", show_default=False),
    ] = None,
    chroma: Annotated[
        str | None, typer.Option("--chroma", help="Change of colour allowed; 25% by default.", show_default=False)
    ] = None,
    ssim: Annotated[
        float | None,
        typer.Option("--ssim", min=0, max=1, help="Likeness of colours wanted; 0.9 by default.", show_default=False),
    ] = None,
    feature_distance: Annotated[
        float | None,
        typer.Option(
            "--feature-distance", min=0, help="Mean feature distance allowed; 0.15 by default.", show_default=False
        ),
    ] = None,
    lpips: Annotated[
        pathlib.Path | None,
        typer.Option("--lpips", help="Your LPIPS as ONNX: two pictures -1..1 in, one number out.", show_default=False),
    ] = None,
    lpips_limit: Annotated[
        float | None,
        typer.Option("--lpips-limit", min=0, help="Mean LPIPS allowed; any by default.", show_default=False),
    ] = None,
    strict: Annotated[  # noqa: FBT002 - a flag of the command line
        bool, typer.Option("--strict", help="Exit with 1 when the version drifts, too.")
    ] = False,
    live: Annotated[  # noqa: FBT002 - a flag of the command line
        bool,
        typer.Option("--live", help="Send no photos: compare what workers kept of mirrored requests (--sample-share)."),
    ] = False,
    minutes: Annotated[
        float,
        typer.Option("--minutes", min=0, max=1440, help="With --live: how long to collect; 0 takes what is there."),
    ] = 0,
    sample_token_file: Annotated[
        pathlib.Path | None,
        typer.Option("--sample-token-file", help="With --live: the workers' token.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Where the resampling of photos starts.")] = 0,
    output: OutputOption = Format.TABLE,
) -> None:
    """Send the same grey photos to both versions, and judge the new one's pictures.

    Blocked: pictures are missing, of another size or lightness, grey, of one tint, or their colours are swapped,
    inverted or displaced: a bug, whatever the style. Drift: they differ by more than the owner allows. Exit code 1 when
    blocked. With --live the photos are people's own: the report and the contact sheet in --out then hold them.
    """
    try:
        from controlplane.cli import comparing  # noqa: PLC0415 - see main
    except ModuleNotFoundError as exc:
        raise InvalidInputError(
            "quality",
            f"needs the package {'pillow' if exc.name == 'PIL' else exc.name}",
            "install it with: pip install 'hueshift[quality]'",
        ) from exc
    if not live and (minutes or sample_token_file):
        raise InvalidInputError("--minutes" if minutes else "--sample-token-file", "is for --live", "add --live")
    if lpips_limit is not None and lpips is None:
        raise InvalidInputError("--lpips-limit", "is for the network of --lpips", "add --lpips FILE or leave it out")
    wanted = comparing.Wanted(
        names=(old, new),
        service=service,
        through=through,
        path=path,
        photos=photos,
        strata=tuple(part.strip() for part in strata.split(",") if part.strip()),
        out=out,
        parallel=parallel,
        timeout=comparing.read_timeout(timeout),
        limits=comparing.read_limits(
            delta_e=delta_e,
            hue_deg=hue,
            ssim_ab=ssim,
            chroma=chroma,
            feature_distance=feature_distance,
            lpips=lpips_limit,
        ),
        lpips=lpips,
        live=comparing.read_live(minutes, sample_token_file) if live else None,
        seed=seed,
    )
    verdict = comparing.run(surroundings_of(context), wanted, form=output)
    raise typer.Exit(1 if verdict == "block" or (strict and verdict == "drift") else 0)


@quality.command()
def show(
    context: typer.Context,
    rollout: Annotated[
        str, typer.Argument(help="Its id, as colorize-7; or a service, for its newest.", show_default=False)
    ],
    number: Annotated[
        int | None, typer.Option("--number", min=1, help="Which comparison; the newest by default.", show_default=False)
    ] = None,
    out: Annotated[
        pathlib.Path | None,
        typer.Option("--out", help="Write its report and its worst pictures into this folder.", show_default=False),
    ] = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Show the comparisons that the control plane made of a rollout's pictures, and what the newest one measured."""
    from controlplane.cli import showing  # noqa: PLC0415 - see main

    showing.show(surroundings_of(context), rollout, number=number, out=out, form=output)


def register(app: typer.Typer) -> None:
    """Add these commands to *app*."""
    app.add_typer(quality, name="quality")
