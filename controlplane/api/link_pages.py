"""The page behind a link that approves or rejects at a gate: looking at it changes nothing, sending its form does.

Mail scanners and chat previews fetch links, so a GET, or a HEAD, only says what the link would do. The page has no
script, loads nothing, and is kept by nobody.
"""

import html
import http
import string
import urllib.parse
from typing import Final

import structlog
from fastapi import APIRouter, Request, Response

from controlplane.api.access import UseParts
from controlplane.api.requests import MAX_WHY_CHARS
from controlplane.errors import ControlPlaneError, NotFoundError
from controlplane.notify.links import PATH, DeadLinkError, LinkAction

log = structlog.get_logger(__name__)

router = APIRouter(include_in_schema=False)

HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; sandbox allow-forms"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "X-Robots-Tag": "noindex, nofollow",
}
_PAGE: Final = string.Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark"><title>$title</title></head>
<body><main><h1>$title</h1><p>$words</p>
$form</main></body></html>
""")
_FORM: Final = string.Template("""<form method="post"><p><label>Reason (for the audit)<br>
<input name="why" maxlength="$most" size="40" autocomplete="off"></label></p>
<p><button type="submit">$verb</button></p></form>
""")
_DOES: Final = {
    LinkAction.APPROVE: ("Approve", "lets it go on to its next step"),
    LinkAction.REJECT: ("Reject", "gives all traffic back to the old version"),
}
MAX_FORM_BYTES: Final = 8_192


@router.get(PATH + "{token}")
async def show_link(token: str, parts: UseParts) -> Response:
    """Say what a link would do."""
    try:
        link = await parts.notify.look_at(token)
    except (NotFoundError, DeadLinkError) as exc:
        return _refusal(exc)
    verb, does = _DOES[link.action]
    words = f"{link.rollout} of {link.service} waits at the gate after step {link.step + 1}. {verb} {does}."
    return _page(f"{verb} {link.rollout}?", words, _FORM.substitute(most=MAX_WHY_CHARS, verb=verb))


@router.head(PATH + "{token}")
async def probe_link(token: str) -> Response:
    """Say nothing: whoever only probes learns nothing, and changes nothing."""
    del token
    return Response(headers=HEADERS)


@router.post(PATH + "{token}")
async def use_link(token: str, request: Request, parts: UseParts) -> Response:
    """Do what a link says, once."""
    form = urllib.parse.parse_qs((await request.body())[:MAX_FORM_BYTES].decode("utf-8", "replace"))
    given = " ".join(form.get("why", [""])[0].split())[:MAX_WHY_CHARS]
    why = "".join(char for char in given if char.isprintable())
    try:
        link = await parts.notify.use(token, why=why)
    except (NotFoundError, DeadLinkError) as exc:
        return _refusal(exc)
    log.info("notify_link.used", rollout_id=link.rollout, target=link.target, action=link.action.value)
    verb, does = _DOES[link.action]
    return _page(f"{link.rollout}: {verb.lower()} was taken down", f"It {does}. You can close this page.")


def _refusal(problem: ControlPlaneError) -> Response:
    if isinstance(problem, NotFoundError):
        status, words = http.HTTPStatus.NOT_FOUND, "There is no such link: it is incomplete, or was made elsewhere."
    else:
        status, words = http.HTTPStatus.GONE, str(problem)
    return _page("This link opens nothing", words[:1].upper() + words[1:] + ".", status=status)


def _page(title: str, words: str, form: str = "", *, status: http.HTTPStatus = http.HTTPStatus.OK) -> Response:
    content = _PAGE.substitute(title=html.escape(title), words=html.escape(words), form=form)
    return Response(content, status_code=status, media_type="text/html; charset=utf-8", headers=HEADERS)
