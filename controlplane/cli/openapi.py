"""The API's reference, for programs and for people: printed from the code, without a server."""

from typing import Annotated

import typer


def openapi(
    markdown: Annotated[  # noqa: FBT002 - a flag of the command line
        bool, typer.Option("--markdown", help="A page to read instead of the document for programs.")
    ] = False,
) -> None:
    """Print the OpenAPI document of this version.

    hueshift openapi > openapi.json; clients are generated from it. A running control plane serves it at /openapi.json.
    """
    from controlplane.api.app import describe  # noqa: PLC0415 - see main
    from controlplane.api.reference import write_document  # noqa: PLC0415
    from controlplane.cli.api_page import write_page  # noqa: PLC0415

    document = describe()
    print(write_page(document) if markdown else write_document(document), end="")


def register(app: typer.Typer) -> None:
    """Add this command to *app*."""
    app.command()(openapi)
