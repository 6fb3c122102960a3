"""What can be seen from outside about certificates: how long they last, and whether the files on disk are any good."""

from prometheus_client import CollectorRegistry, Counter, Gauge


class TlsMetrics:
    """Gauges per certificate; *registry* is the process's. The channel's own are called ``channel``."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.expires = Gauge(
            "hueshift_tls_certificate_expires_seconds",
            "Unix time at which the certificate that is served ends.",
            ("certificate",),
            registry=registry,
        )
        self.refused = Gauge(
            "hueshift_tls_certificate_refused",
            "1 while the files on disk are not usable and what they held before is served.",
            ("certificate",),
            registry=registry,
        )
        self.reloads = Counter(
            "hueshift_tls_certificate_reloads_total",
            "Times that new files were taken, the first included.",
            ("certificate",),
            registry=registry,
        )
        self.handshakes = Counter(
            "hueshift_tls_handshakes_total",
            "TLS handshakes begun on the ports for Envoys. One that no stream follows was refused.",
            registry=registry,
        )
