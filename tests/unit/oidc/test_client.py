"""A provider's tokens: which are good, whichever keys it has just now, and what is said when it is away."""

import datetime as dt
from collections.abc import AsyncIterator

import httpx
import pytest

from controlplane.errors import InvalidInputError, UnauthorizedError, UnavailableError
from controlplane.oidc.client import KEPT, REFETCH, OidcClient
from tests.fakes import ManualClock
from tests.oidc_provider import CLIENT, SECRET, Provider, claims_for, confused, make_rsa, unsigned

ISSUER = "https://login.test"
KEYS = "/keys"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def provider(clock: ManualClock) -> Provider:
    return Provider(ISSUER, clock)


@pytest.fixture
async def client(provider: Provider, clock: ManualClock) -> AsyncIterator[OidcClient]:
    transport = httpx.ASGITransport(provider.app)
    async with OidcClient(ISSUER, client_id=CLIENT, client_secret=SECRET, clock=clock, transport=transport) as opened:
        yield opened


async def test_a_good_token_says_who_it_is(client: OidcClient, provider: Provider) -> None:
    claims = await client.verify(provider.sign("n1"), nonce="n1")
    assert (claims["sub"], claims["groups"]) == ("ada-1", ["ml", "all"])
    assert (await client.verify(provider.sign(aud=[CLIENT, "other"], azp=CLIENT), nonce=None))["sub"] == "ada-1"


@pytest.mark.parametrize(
    ("altered", "words"),
    [
        ({"aud": "other"}, "aud"),
        ({"aud": None}, "aud"),
        ({"aud": [CLIENT, "other"]}, "made for somebody else"),
        ({"azp": "other"}, "made for somebody else"),
        ({"iss": "https://evil.test"}, "iss"),
        ({"iss": None}, "iss"),
        ({"exp": 1}, "expired"),
        ({"exp": None}, "exp"),
        ({"iat": None}, "iat"),
        ({"iat": 9_999_999_999}, "future"),
        ({"nbf": 9_999_999_999}, "not yet valid"),
        ({"sub": None}, "sub"),
        ({"nonce": "n2"}, "its nonce is another"),
        ({"nonce": None}, "its nonce is another"),
    ],
)
async def test_a_token_that_says_something_else_is_refused(
    client: OidcClient, provider: Provider, altered: dict[str, object], words: str
) -> None:
    with pytest.raises(UnauthorizedError, match=words):
        await client.verify(provider.sign("n1", **altered), nonce="n1")


async def test_a_token_is_good_until_it_expires_give_or_take_a_minute(
    client: OidcClient, provider: Provider, clock: ManualClock
) -> None:
    token = provider.sign()
    clock.move(dt.timedelta(seconds=350))
    await client.verify(token, nonce=None)
    clock.move(dt.timedelta(seconds=10))
    with pytest.raises(UnauthorizedError, match="expired"):
        await client.verify(token, nonce=None)


async def test_a_token_that_the_provider_did_not_sign_is_refused(client: OidcClient, provider: Provider) -> None:
    claims = claims_for(provider)
    good = provider.sign()
    head, body, signature = good.split(".")
    forger = Provider(ISSUER, provider.clock)
    forger.keys = [make_rsa("k1")]
    for token in (
        unsigned(claims),
        unsigned(claims) + signature,
        confused(claims, provider.keys[0]),
        forger.sign(),
        f"{head}.{body}.",
        f"{head}.{body}.{signature[:-4]}AAAA",
        f"{head}.{forger.sign(groups=['admins']).split('.')[1]}.{signature}",
        "eyJ",
        "",
        "a.b.c",
        good + "x" * 20_000,
    ):
        with pytest.raises(UnauthorizedError):
            await client.verify(token, nonce=None)
    assert (await client.verify(good, nonce=None))["sub"] == "ada-1"


async def test_rotated_keys_are_fetched_when_one_is_met(
    client: OidcClient, provider: Provider, clock: ManualClock
) -> None:
    old = provider.sign()
    await client.verify(old, nonce=None)
    clock.move(REFETCH)
    provider.rotate()
    await client.verify(provider.sign(), nonce=None)
    assert provider.asked.count(KEYS) == 2
    clock.move(REFETCH)
    with pytest.raises(UnauthorizedError, match="kid"):
        await client.verify(old, nonce=None)


async def test_unknown_keys_do_not_have_the_provider_asked_without_end(
    client: OidcClient, provider: Provider, clock: ManualClock
) -> None:
    stranger = Provider(ISSUER, clock)
    stranger.keys = [make_rsa("k9")]
    for _ in range(20):
        with pytest.raises(UnauthorizedError, match="kid"):
            await client.verify(stranger.sign(), nonce=None)
    assert provider.asked.count(KEYS) == 1
    clock.move(REFETCH)
    with pytest.raises(UnauthorizedError):
        await client.verify(stranger.sign(), nonce=None)
    assert provider.asked.count(KEYS) == 2


async def test_what_is_published_is_kept_for_a_while(
    client: OidcClient, provider: Provider, clock: ManualClock
) -> None:
    for _ in range(3):
        await client.verify(provider.sign(), nonce=None)
        await client.authorize_url({})
    assert len(provider.asked) == 2
    clock.move(KEPT)
    await client.verify(provider.sign(), nonce=None)
    assert len(provider.asked) == 4


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"issuer": "https://login.test/"}, "calls itself 'https://login.test/'; write HUESHIFT_OIDC_ISSUER exactly"),
        ({"issuer": None}, "calls itself None"),
        ({"jwks_uri": "http://evil.test/keys"}, "is no https address"),
        ({"token_endpoint": None}, "is no https address"),
        ({"authorization_endpoint": "javascript:alert(1)"}, "is no https address"),
    ],
)
async def test_a_document_that_leads_elsewhere_is_refused(
    client: OidcClient, provider: Provider, document: dict[str, object], words: str
) -> None:
    provider.document = document
    with pytest.raises(UnavailableError, match=words):
        await client.authorize_url({})


async def test_a_provider_that_is_away_is_said_in_one_line(client: OidcClient, provider: Provider) -> None:
    provider.is_away = True
    for attempt in (client.authorize_url({}), client.verify(provider.sign(), nonce=None)):
        with pytest.raises(UnavailableError, match=r"the OIDC provider login\.test answered 503"):
            await attempt
    provider.is_away = False
    await client.verify(provider.sign(), nonce=None)


@pytest.mark.parametrize("issuer", ["login.test", "http://login.test", "https://", "ftp://x", "https://a:b@login.test"])
def test_an_issuer_that_is_no_https_address_is_refused(issuer: str) -> None:
    with pytest.raises(InvalidInputError, match="HUESHIFT_OIDC_ISSUER: "):
        OidcClient(issuer, client_id=CLIENT, client_secret="", clock=ManualClock())
