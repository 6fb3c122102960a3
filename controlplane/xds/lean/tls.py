"""TLS of one connection, without the connection: what came encrypted goes in, what was said comes out, and back.

Not asyncio's: that reads into 256 KiB of its own per connection, and its server keeps one context for good, while here
each connection takes the newest certificates.
"""

import contextlib
import ssl
from typing import Final

from controlplane.tls.identity import Identities, identities_in

PROTOCOL: Final = "h2"

READ_BYTES: Final = 64 * 1024


class NotHttp2Error(Exception):
    """The client did not agree to HTTP/2 (RFC 9113, section 3.2)."""


class TlsSide:
    """The server's side of one TLS connection.

    Args:
        context: Whom it shows itself as and whom it believes.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.is_established = False

    @property
    def identities(self) -> Identities:
        """Whom the client has proved to be, once the connection is established."""
        return identities_in(self._object.getpeercert() or {})

    def feed(self, data: bytes) -> bytes:
        """Take in what came; return what it says. See to `pending` afterwards, also after an error.

        Raises:
            ssl.SSLError: The client is not let in, or broke the protocol.
            NotHttp2Error: It speaks something else.
        """
        self._incoming.write(data)
        if not self.is_established and not self._shake_hands():
            return b""
        parts = []
        try:
            while part := self._object.read(READ_BYTES):
                parts.append(part)
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
            raise NotHttp2Error
        self.is_established = True
        return True
