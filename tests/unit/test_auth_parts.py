"""What the settings of log-ins make: or the one line that says what is wrong with them."""

import pathlib
from typing import Any

import pytest

from controlplane.auth.keys import KeyRing
from controlplane.auth.roles import Grant
from controlplane.auth_parts import CALLBACK, open_auth, read_public_url
from controlplane.clock import SystemClock
from controlplane.errors import InvalidInputError
from controlplane.settings import read_settings
from controlplane.store import open_store
from controlplane.wake import WakeBoard

OIDC = {
    "oidc_issuer": "https://login.example.org",
    "oidc_client_id": "hueshift",
    "oidc_roles": "groups: sre=admin",
    "public_url": "https://hueshift.example.org/",
}


async def build(**settings: Any) -> tuple[str, bool, tuple[Grant, ...]]:
    """Return the public URL, whether people can log in, and what somebody of the group sre may."""
    clock = SystemClock()
    async with await open_store("sqlite://", board=WakeBoard(), clock=clock) as store:
        ring = KeyRing(store=store, clock=clock)
        async with open_auth(read_settings(**settings), store=store, keys=ring, clock=clock) as auth:
            if auth.logins is not None:
                assert auth.logins.redirect_uri == auth.public_url + CALLBACK
            return auth.public_url, auth.logins is not None, auth.sessions.grants_of({"groups": ["sre"]})


async def test_without_settings_there_are_keys_alone() -> None:
    assert await build() == ("", False, ())


async def test_a_provider_is_set_by_four_settings_and_a_file(tmp_path: pathlib.Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hush\n")
    url, has_logins, grants = await build(**OIDC, oidc_client_secret_file=secret)
    assert (url, has_logins, [str(each) for each in grants]) == ("https://hueshift.example.org", True, ["admin:*"])


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"oidc_client_id": ""}, "HUESHIFT_OIDC_CLIENT_ID: is not set, although HUESHIFT_OIDC_ISSUER is; set it, too"),
        ({"oidc_roles": ""}, "HUESHIFT_OIDC_ROLES: is not set"),
        ({"public_url": ""}, "HUESHIFT_PUBLIC_URL: is not set"),
        ({"oidc_roles": "sre"}, "HUESHIFT_OIDC_ROLES: does not begin with a claim"),
        ({"oidc_issuer": "http://login.example.org"}, "HUESHIFT_OIDC_ISSUER: 'http://login.example.org' is no https"),
        ({"oidc_client_secret_file": pathlib.Path("/nowhere")}, "HUESHIFT_OIDC_CLIENT_SECRET_FILE: /nowhere cannot be"),
        (
            {"oidc_client_secret_file": pathlib.Path("/dev/null")},
            "HUESHIFT_OIDC_CLIENT_SECRET_FILE: /dev/null is empty",
        ),
    ],
)
async def test_settings_that_make_no_sense_stop_the_start_in_one_line(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        await build(**{**OIDC, **changed})
    assert str(refused.value).startswith(words)


@pytest.mark.parametrize(
    "text", ["hueshift", "ftp://a", "https://", "https://a/b", "https://a?b", "https://a:b", "https://u@a"]
)
def test_a_public_url_that_is_no_origin_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError, match=r"^HUESHIFT_PUBLIC_URL: "):
        read_public_url(text)
