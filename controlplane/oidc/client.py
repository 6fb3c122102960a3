"""The port `IdentityProvider` on an OpenID Connect provider's HTTP endpoints.

What it publishes (the discovery document, its keys) is kept for a while. A token of a key that is not known has the
keys fetched anew, so that a provider may change them at any moment, but at most every `REFETCH`, so that nobody can
have us ask it without end. Tokens are good with the listed algorithms alone, whatever their own header says.
"""

import asyncio
import dataclasses
import datetime as dt
import hmac
import ipaddress
import json
import urllib.parse
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Self

import httpx
from joserfc import jws, jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from controlplane.auth.sessions import Claims
from controlplane.clock import Clock
from controlplane.errors import InvalidInputError, UnauthorizedError, UnavailableError

SETTING: Final = "HUESHIFT_OIDC_ISSUER"
ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA")
"""Signatures with a private key: never a shared secret, and never none."""
SCOPES: Final = "openid email profile"
KEPT: Final = dt.timedelta(hours=1)
REFETCH: Final = dt.timedelta(seconds=30)
PATIENCE: Final = dt.timedelta(seconds=10)
LEEWAY: Final = dt.timedelta(seconds=60)
"""How far the provider's clock may be off ours."""
MAX_ANSWER_BYTES: Final = 1 << 20
MAX_TOKEN_CHARS: Final = 16_384
_NOT_ACCEPTED: Final = frozenset({400, 401, 403, 404, 422})
_DISCOVERY: Final = "/.well-known/openid-configuration"
_ENDPOINTS: Final = ("authorization_endpoint", "token_endpoint", "jwks_uri")


@dataclasses.dataclass(frozen=True, slots=True)
class _Kept:
    """Something fetched, and when (steady seconds)."""

    value: Any
    at: float


class OidcClient:
    """One provider. Close it, or use it as a context manager.

    Args:
        issuer: Its address, exactly as it calls itself.
        client_id: Who we are to it; tokens must be for us.
        client_secret: What proves that; "" for a client without one.
        clock: What tokens' ages are told by.
        transport: Another way to get there than a socket.

    Raises:
        InvalidInputError: *issuer* is no such address; the text names the setting.
    """

    def __init__(
        self,
        issuer: str,
        *,
        client_id: str,
        client_secret: str,
        clock: Clock,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._issuer = issuer
        self._who = f"the OIDC provider {_check(issuer, SETTING)}"
        self._client_id = client_id
        self._client_secret = client_secret
        self._clock = clock
        self._document: _Kept | None = None
        self._keys: _Kept | None = None
        self._fetching = asyncio.Lock()
        self._http = httpx.AsyncClient(timeout=PATIENCE.total_seconds(), transport=transport, trust_env=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def authorize_url(self, parameters: Mapping[str, str]) -> str:
        endpoint = (await self._discover())["authorization_endpoint"]
        query = urllib.parse.urlencode({"client_id": self._client_id, "scope": SCOPES, **parameters})
        return f"{endpoint}{'&' if '?' in endpoint else '?'}{query}"

    async def redeem(self, code: str, *, verifier: str, redirect_uri: str) -> str:
        document = await self._discover()
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": verifier,
            "client_id": self._client_id,
        }
        methods = document.get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
        basic: httpx.BasicAuth | None = None
        if self._client_secret and "client_secret_basic" in methods:
            quote = urllib.parse.quote_plus
            basic = httpx.BasicAuth(quote(self._client_id), quote(self._client_secret))
        elif self._client_secret:
            form["client_secret"] = self._client_secret
        status, answer = await self._ask("POST", document["token_endpoint"], data=form, auth=basic)
        if status in _NOT_ACCEPTED:
            reason = str(answer.get("error", status))[:100]
            raise UnauthorizedError(f"{self._who} did not accept the log-in ({reason!r}); begin again at /login/oidc")
        token = answer.get("id_token")
        if status != httpx.codes.OK or not isinstance(token, str):
            raise UnavailableError(f"{self._who} answered {status} without an ID token; try again")
        return token

    async def verify(self, token: str, *, nonce: str | None) -> Claims:
        try:
            if len(token) > MAX_TOKEN_CHARS:
                raise _refused("is too long")
            header = jws.extract_compact(token.encode()).headers()
            keys = await self._keys_with(header.get("kid"))
            claims = jwt.decode(token, keys, algorithms=ALGORITHMS).claims
            now = int(self._clock.now().timestamp())
            jwt.JWTClaimsRegistry(
                now=now,
                leeway=int(LEEWAY.total_seconds()),
                iss={"essential": True, "value": self._issuer},
                aud={"essential": True, "value": self._client_id},
                exp={"essential": True},
                iat={"essential": True},
                sub={"essential": True},
            ).validate(claims)
        except (JoseError, ValueError, TypeError, KeyError) as exc:
            raise _refused(f"is not good ({' '.join(str(exc).split())[:200]})") from exc
        self._check_party(claims)
        if nonce is not None and not hmac.compare_digest(nonce.encode(), str(claims.get("nonce", "")).encode()):
            raise _refused("is not of this log-in: its nonce is another")
        return claims

    def _check_party(self, claims: Claims) -> None:
        audience = claims["aud"]
        party = claims.get("azp")
        if (isinstance(audience, list) and len(audience) > 1 and party is None) or party not in {None, self._client_id}:
            raise _refused("was made for somebody else")

    async def _keys_with(self, kid: Any) -> KeySet:
        """Return the provider's keys, fetched anew if none of them is called *kid*."""
        kept = self._keys
        if kept is None or self._age(kept) >= KEPT or (kid not in _names(kept.value) and self._age(kept) >= REFETCH):
            async with self._fetching:
                if self._keys is kept:  # nobody else has fetched them meanwhile
                    self._keys = _Kept(await self._fetch_keys(), self._clock.steady())
        assert self._keys is not None  # noqa: S101 - for the type checker
        return self._keys.value if isinstance(self._keys.value, KeySet) else KeySet([])

    async def _fetch_keys(self) -> KeySet:
        status, answer = await self._ask("GET", (await self._discover())["jwks_uri"])
        if status != httpx.codes.OK:
            raise UnavailableError(f"{self._who} answered {status} for its keys; try again")
        listed = answer.get("keys")
        good = [each for each in listed if _signs(each)] if isinstance(listed, list) else []
        try:
            return KeySet.import_key_set({"keys": good})
        except (JoseError, ValueError, TypeError, KeyError) as exc:
            raise UnavailableError(f"{self._who} publishes keys that cannot be read ({exc})") from exc

    async def _discover(self) -> Mapping[str, Any]:
        kept = self._document
        if kept is not None and self._age(kept) < KEPT:
            document: Mapping[str, Any] = kept.value
            return document
        status, found = await self._ask("GET", self._issuer.rstrip("/") + _DISCOVERY)
        if status != httpx.codes.OK:
            raise UnavailableError(f"{self._who} answered {status} for {_DISCOVERY}; check {SETTING}")
        if found.get("issuer") != self._issuer:
            raise UnavailableError(
                f"{self._who} calls itself {found.get('issuer')!r}; write {SETTING} exactly like that"
            )
        for name in _ENDPOINTS:
            try:
                _check(str(found.get(name)), name)
            except InvalidInputError as exc:
                raise UnavailableError(f"{self._who} publishes an endpoint that is none of https ({exc})") from exc
        self._document = _Kept(found, self._clock.steady())
        return found

    async def _ask(
        self, method: str, url: str, *, data: Mapping[str, str] | None = None, auth: httpx.BasicAuth | None = None
    ) -> tuple[int, dict[str, Any]]:
        headers = {"Accept": "application/json"}
        try:
            async with (
                asyncio.timeout(PATIENCE.total_seconds()),
                self._http.stream(method, url, data=data, auth=auth, headers=headers) as response,
            ):
                content = b""
                async for part in response.aiter_bytes():
                    content += part
                    if len(content) > MAX_ANSWER_BYTES:
                        raise UnavailableError(f"{self._who} answers with more than {MAX_ANSWER_BYTES} bytes")
        except TimeoutError as exc:
            raise UnavailableError(f"{self._who} did not answer within {PATIENCE.total_seconds():g} s") from exc
        except httpx.HTTPError as exc:
            words = " ".join(str(exc).split()) or type(exc).__name__
            raise UnavailableError(f"cannot reach {self._who} ({words}); check {SETTING}") from exc
        try:
            found = json.loads(content)
        except ValueError:
            found = None
        return response.status_code, found if isinstance(found, dict) else {}

    def _age(self, kept: _Kept) -> dt.timedelta:
        return dt.timedelta(seconds=self._clock.steady() - kept.at)


def _refused(words: str) -> UnauthorizedError:
    return UnauthorizedError(f"the provider's token {words}; log in again")


def _signs(key: object) -> bool:
    """Whether a published key is for signatures, and of a kind that has a public half."""
    return isinstance(key, dict) and key.get("kty") in {"RSA", "EC", "OKP"} and key.get("use", "sig") == "sig"


def _names(keys: KeySet) -> set[str | None]:
    names: set[str | None] = {key.kid for key in keys.keys}
    return names | {None} if len(keys.keys) == 1 else names


def _check(url: str, field: str) -> str:
    """Return the host of *url*.

    Raises:
        InvalidInputError: It is not https, and not on this machine either.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        host = parts.hostname or ""
    except ValueError as exc:
        raise InvalidInputError(
            field, f"{url[:200]!r} is no address", "write it like https://login.example.org"
        ) from exc
    if not host or parts.username or not (parts.scheme == "https" or (parts.scheme == "http" and _is_here(host))):
        raise InvalidInputError(field, f"{url[:200]!r} is no https address", "write it like https://login.example.org")
    return parts.netloc


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
