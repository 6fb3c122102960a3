"""Pure: what an address says of whom it leads to, and what of it may be shown."""

import urllib.parse


def is_webhook(address: str) -> bool:
    """Whether *address* is called by us, and not by Apprise."""
    return address.partition("://")[0].lower() in {"http", "https"}


def host_of(address: str) -> str:
    """Return whom *address* leads to: what may be logged of it, and what calls are bounded by.

    That is the host, with its port, or the service's name where that is all: others' tokens stand in the host's place.
    """
    try:
        parts = urllib.parse.urlsplit(address)
        port = parts.port
    except ValueError:
        return "unknown"
    if parts.scheme not in {"http", "https", "json", "jsons", "mailto", "mailtos", "workflow", "workflows"}:
        return parts.scheme
    host = dict(urllib.parse.parse_qsl(parts.query)).get("smtp") or parts.hostname or ""
    return f"{host}:{port}" if port else host


def shown(address: str) -> str:
    """Return *address* without what may be a secret: its path, its query, a password."""
    if not address:
        return ""
    scheme, host = address.partition("://")[0], host_of(address)
    return f"{scheme}://…" if host == scheme else f"{scheme}://{host}/…"
