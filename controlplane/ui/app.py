"""Serves the pages' files: built from `web/` and committed, nothing from other hosts, nothing that needs a key.

The browser is told to run and load nothing but these files and to speak to nobody but us (Content-Security-Policy), so
that a name or a reason in somebody's job can never become a script. Svelte's templates, which are in the script
itself, are the one thing that may become HTML (its policy of trusted types).
"""

import hashlib
import pathlib
from collections.abc import Collection
from typing import Final

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import JSONResponse

STATIC: Final = pathlib.Path(__file__).parent / "static"
APP: Final = "index.html"
PAGES: Final = ("/", "/login", "/services/{name}", "/services/{name}/pictures", "/jobs", "/audit")
"""The paths at which the app is served; it looks at the path itself."""
ABOUT: Final = "/ui/about.json"
"""What a page needs to know of this control plane before anybody has logged in."""
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script';"
    " trusted-types svelte-trusted-html"
)
_HEADERS: Final = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-cache",
}
_TYPES: Final = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


def add_pages(app: FastAPI, *, oidc: bool = False, cookies: Collection[str] = ()) -> None:
    """Serve the app at each path of `PAGES`, and the files that it loads under ``/ui/``.

    Args:
        app: What serves them.
        oidc: Whether people can log in with an account, which the log-in page then offers.
        cookies: The names that the cookie of a session may have: a page cannot see it, and asking for a session where
            there is none would be an error on the browser's console.
    """
    router = APIRouter(include_in_schema=False)

    async def about(request: Request) -> Response:
        has_cookie = any(name in request.cookies for name in cookies)
        return JSONResponse({"oidc": oidc, "session": has_cookie}, headers={**_HEADERS, "Cache-Control": "no-store"})

    router.add_api_route(ABOUT, about)
    for path in PAGES:
        _serve(router, path, STATIC / APP)
    for file in sorted(STATIC.iterdir()):
        if file.name != APP:
            _serve(router, f"/ui/{file.name}", file)
    app.include_router(router)


def _serve(router: APIRouter, path: str, file: pathlib.Path) -> None:
    content = file.read_bytes()
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {**_HEADERS, "ETag": tag}

    async def answer(request: Request) -> Response:
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=_TYPES[file.suffix], headers=headers)

    router.add_api_route(path, answer, methods=["GET", "HEAD"], name=f"file:{path}")
