"""An OpenID Connect provider for tests, with keys of its own: it does what is asked, right or wrong."""

import base64
import dataclasses
import functools
import hashlib
import hmac
import json
import secrets
import urllib.parse
from typing import Annotated, Any

from fastapi import FastAPI, Form, Request
from fastapi.responses import JSONResponse, RedirectResponse
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, RSAKey

from controlplane.clock import Clock

CLIENT = "hueshift"
SECRET = f"{secrets.token_urlsafe(12)} &%"


@dataclasses.dataclass
class Code:
    """What a code stands for until it is redeemed."""

    challenge: str
    nonce: str
    redirect_uri: str


class Provider:
    """The provider: *app* is its HTTP side; what its tokens say can be changed before each."""

    def __init__(self, issuer: str, clock: Clock) -> None:
        self.issuer = issuer
        self.clock = clock
        self.keys: list[RSAKey | ECKey] = [_first_key()]
        self.claims: dict[str, Any] = {
            "sub": "ada-1",
            "email": "Ada@example.org",
            "email_verified": True,
            "groups": ["ml", "all"],
        }
        self.alters: dict[str, Any] = {}
        """Claims that are other than they should be; None leaves one out."""
        self.codes: dict[str, Code] = {}
        self.is_away = False
        self.asked: list[str] = []
        self.document: dict[str, Any] = {}
        self.app = self._build()

    def sign(self, nonce: str | None = None, /, **altered: Any) -> str:
        """Return an ID token."""
        now = int(self.clock.now().timestamp())
        claims = {"iss": self.issuer, "aud": CLIENT, "iat": now, "exp": now + 300, **self.claims}
        if nonce is not None:
            claims["nonce"] = nonce
        claims |= self.alters | altered
        key = self.keys[-1]
        header = {"alg": "ES256" if isinstance(key, ECKey) else "RS256", "kid": key.kid}
        return jwt.encode(header, {name: each for name, each in claims.items() if each is not None}, key)

    def rotate(self) -> None:
        """Sign with another key from now on; the old one is published no more."""
        self.keys = [ECKey.generate_key("P-256", {"kid": f"k{len(self.asked)}-{secrets.token_hex(4)}", "use": "sig"})]

    def _build(self) -> FastAPI:
        app = FastAPI()

        @app.middleware("http")
        async def note(request: Request, call_next: Any) -> Any:
            self.asked.append(request.url.path)
            if self.is_away:
                return JSONResponse({"error": "maintenance"}, status_code=503)
            return await call_next(request)

        @app.get("/.well-known/openid-configuration")
        async def discover() -> dict[str, Any]:
            return {
                "issuer": self.issuer,
                "authorization_endpoint": f"{self.issuer}/authorize",
                "token_endpoint": f"{self.issuer}/token",
                "jwks_uri": f"{self.issuer}/keys",
                **self.document,
            }

        @app.get("/keys")
        async def keys() -> dict[str, Any]:
            return dict(KeySet(list(self.keys)).as_dict(private=False))

        @app.get("/authorize")
        async def authorize(request: Request) -> RedirectResponse:
            asked = request.query_params
            assert (asked["response_type"], asked["client_id"]) == ("code", CLIENT)
            assert "openid" in asked["scope"].split()
            assert asked["code_challenge_method"] == "S256"
            code = secrets.token_urlsafe(16)
            self.codes[code] = Code(asked["code_challenge"], asked["nonce"], asked["redirect_uri"])
            query = urllib.parse.urlencode({"code": code, "state": asked["state"]})
            return RedirectResponse(f"{asked['redirect_uri']}?{query}", status_code=302)

        @app.post("/token")
        async def token(
            request: Request,
            code: Annotated[str, Form()],
            code_verifier: Annotated[str, Form()],
            redirect_uri: Annotated[str, Form()],
            client_secret: Annotated[str, Form()] = "",
        ) -> JSONResponse:
            basic = base64.b64encode(f"{CLIENT}:{urllib.parse.quote_plus(SECRET)}".encode()).decode()
            if request.headers.get("authorization") != f"Basic {basic}" and client_secret != SECRET:
                return JSONResponse({"error": "invalid_client"}, status_code=401)
            known = self.codes.pop(code, None)
            digest = _base64(hashlib.sha256(code_verifier.encode()).digest())
            if known is None or (known.challenge, known.redirect_uri) != (digest, redirect_uri):
                return JSONResponse({"error": "invalid_grant"}, status_code=400)
            return JSONResponse({"id_token": self.sign(known.nonce), "access_token": "x", "token_type": "Bearer"})

        return app


@functools.cache
def _first_key() -> RSAKey:
    return make_rsa("k1")


def make_rsa(kid: str) -> RSAKey:
    """Make a key that signs."""
    return RSAKey.generate_key(2048, {"kid": kid, "use": "sig"})


def unsigned(claims: dict[str, Any]) -> str:
    """Return a token whose header says that it needs no signature."""
    return _encode({"alg": "none", "kid": "k1"}, claims) + "."


def confused(claims: dict[str, Any], key: RSAKey | ECKey) -> str:
    """Return a token signed with the public half of *key* as if that were a shared secret."""
    text = _encode({"alg": "HS256", "kid": key.kid}, claims)
    return f"{text}.{_base64(hmac.digest(key.as_pem(private=False), text.encode(), 'sha256'))}"


def _encode(header: dict[str, Any], claims: dict[str, Any]) -> str:
    return ".".join(_base64(json.dumps(part).encode()) for part in (header, claims))


def _base64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def claims_for(provider: Provider, **changed: Any) -> dict[str, Any]:
    """Return what a good token of *provider* says."""
    now = int(provider.clock.now().timestamp())
    return {"iss": provider.issuer, "aud": CLIENT, "iat": now, "exp": now + 300, **provider.claims, **changed}
