"""Pure: secrets and signatures, as the Standard Webhooks specification writes them."""

import base64
import binascii
import datetime as dt
import hashlib
import hmac
import secrets
from collections.abc import Sequence
from typing import Final

from controlplane.errors import InvalidInputError

SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - the specification's
SECRET_BYTES: Final = (24, 64)
OLD_SECRET_FOR: Final = dt.timedelta(days=1)
"""How long calls are also signed with the secret before, so that receivers can change to the new one."""


def new_secret() -> str:
    """Make a secret as the Standard Webhooks specification writes them."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def check_secret(text: str) -> None:
    """Refuse what is no such secret. Raises InvalidInputError, whose text does not repeat it."""
    low, high = SECRET_BYTES
    with_prefix = text.startswith(SECRET_PREFIX)
    try:
        length = len(base64.b64decode(text.removeprefix(SECRET_PREFIX), validate=True))
    except (binascii.Error, ValueError):
        length = 0
    if not with_prefix or not low <= length <= high:
        raise InvalidInputError(
            "secret", "is none", f"write {SECRET_PREFIX} and {low} to {high} bytes in base64, or leave it out"
        )


def signature(known: Sequence[str], event: str, at: dt.datetime, body: bytes) -> str:
    """Sign as the Standard Webhooks specification says: the value of the header ``webhook-signature``.

    Args:
        known: Secrets, each of which makes a signature.
        event: The header ``webhook-id``.
        at: The header ``webhook-timestamp``.
        body: What is sent, to the byte.
    """
    signed = f"{event}.{int(at.timestamp())}.".encode() + body
    made = []
    for secret in known:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
        made.append("v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode())
    return " ".join(made)
