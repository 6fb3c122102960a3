"""TLS of one connection, without the connection: what came encrypted goes in, what was said comes out, and back.

Not asyncio's: that reads into 256 KiB of its own per connection, and its server keeps one context for good, while here
each connection takes the newest certificates.
"""

import contextlib
import datetime as dt
import ssl
from typing import Final

from controlplane.tls.identity import Identities, identities_in

PROTOCOL: Final = "h2"

READ_BYTES: Final = 64 * 1024


class RefusedError(Exception):
    """The client is not let in, for a reason that TLS itself does not know."""


class TlsSide:
    """The server's side of one TLS connection.

    Args:
        context: Whom it shows itself as and whom it believes.
        now: When the connection begins.
    """

    def __init__(self, context: ssl.SSLContext, *, now: dt.datetime) -> None:
        self.is_established = False
        self.is_over = False
        self.identities: Identities = ()
        self._now = now
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    def feed(self, data: bytes) -> bytes:
        """Take in what came; return what it says. See to `pending` afterwards, also after an error.

        Raises:
            ssl.SSLError: The client is not let in, or broke the protocol.
            RefusedError: It speaks something else than HTTP/2, or its certificate cannot be used.
        """
        self._incoming.write(data)
        if not self.is_established and not self._shake_hands():
            return b""
        parts = []
        try:
            while part := self._object.read(READ_BYTES):
                parts.append(part)
            self.is_over = True  # the client has said that nothing follows
        except ssl.SSLWantReadError:
            pass
        return b"".join(parts)

    def say(self, data: bytes) -> bytes:
        """Return *data* encrypted."""
        self._object.write(data)
        return self.pending()

    def pending(self) -> bytes:
        """Return what is to be sent on behalf of TLS itself."""
        return self._outgoing.read()

    def goodbye(self) -> bytes:
        """Return what tells the client that nothing follows."""
        with contextlib.suppress(ssl.SSLError):  # it has not said so itself, and nobody waits for that
            self._object.unwrap()
        return self.pending()

    def _shake_hands(self) -> bool:
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        if self._object.selected_alpn_protocol() != PROTOCOL:
            raise RefusedError("the client does not offer HTTP/2 (ALPN h2)")  # RFC 9113, section 3.2
        self._identify()
        self.is_established = True
        return True

    def _identify(self) -> None:
        try:
            certificate = self._object.getpeercert() or {}
        except ValueError as exc:
            raise RefusedError("the names in the client's certificate are not readable") from exc
        # A session that is resumed is not verified again; its certificate may have ended meanwhile.
        if self._object.session_reused:
            ends = ssl.cert_time_to_seconds(str(certificate.get("notAfter", "Jan  1 00:00:00 1970 GMT")))
            if ends <= self._now.timestamp():
                raise RefusedError("the client's certificate has ended")
        self.identities = identities_in(certificate)
