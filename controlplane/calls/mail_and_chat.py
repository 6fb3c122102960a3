"""The port `Sender` for mail and chat, by Apprise: only services of a list, and hosts that the operator has named.

Apprise blocks, so that each sending has a thread of its own, of which there are few; one that hangs is left behind, and
does not hold the process up when it ends. Its addresses can do much, read files and keys among it: what is not needed
here is refused. Where an address names a host, that is looked up and checked just before it is called; Apprise then
looks it up again, so that only the list of hosts stands against a name that changes its address in between.
"""

import asyncio
import contextlib
import datetime as dt
import logging
import re
import socket
import threading
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from apprise import AppriseAsset, NotifyFormat, NotifyType
from apprise.plugins.base import NotifyBase
from apprise.plugins.custom_json import NotifyJSON
from apprise.plugins.dingtalk import NotifyDingTalk
from apprise.plugins.email import NotifyEmail
from apprise.plugins.feishu import NotifyFeishu
from apprise.plugins.lark import NotifyLark
from apprise.plugins.slack import NotifySlack
from apprise.plugins.wecombot import NotifyWeComBot
from apprise.plugins.workflows import NotifyWorkflows

from controlplane.courier.model import Heard, Letter, Unheard
from controlplane.errors import InvalidInputError
from controlplane.jobs.sources import AllowedSources

SETTING: Final = "HUESHIFT_CALLBACK_SERVICES"
TIMEOUT_S: Final = 30.0
READ_S: Final = 10.0
CONNECT_S: Final = 5.0
MAX_THREADS: Final = 16

PLUGINS: Final[dict[str, type[NotifyBase]]] = {
    "dingtalk": NotifyDingTalk,
    "feishu": NotifyFeishu,
    "json": NotifyJSON,
    "jsons": NotifyJSON,
    "lark": NotifyLark,
    "mailto": NotifyEmail,
    "mailtos": NotifyEmail,
    "slack": NotifySlack,
    "wecombot": NotifyWeComBot,
    "workflow": NotifyWorkflows,
    "workflows": NotifyWorkflows,
}
"""Without going through Apprise's own registry, which would load all of its services, and its users' own."""
_MAIL_PARAMETERS: Final = frozenset({"to", "from", "name", "cc", "bcc", "reply", "smtp", "mode"})
_MAIL_PORTS: Final = (25, 465, 587)

_words = threading.local()


class _Ear(logging.Handler):
    """Keeps what Apprise says in this thread, since it returns no reason."""

    def emit(self, record: logging.LogRecord) -> None:
        _words.last = record.getMessage()


class MailAndChat:
    """Sends by Apprise.

    Args:
        services: The schemes that owners may name.
        sources: The hosts that those addresses may lead to which name one.
        timeout: The longest that one sending is waited for.
        setting: The one that names the services.

    Raises:
        InvalidInputError: A service is not known; the text names the setting.
    """

    def __init__(
        self,
        services: Collection[str],
        sources: AllowedSources,
        *,
        timeout: dt.timedelta = dt.timedelta(seconds=TIMEOUT_S),
        setting: str = SETTING,
    ) -> None:
        for service in services:
            if service not in PLUGINS:
                raise InvalidInputError(setting, f"{service[:40]!r} is not known", f"use some of: {', '.join(PLUGINS)}")
        self._services = frozenset(services)
        self._setting = setting
        self._sources = sources
        self._timeout_s = timeout.total_seconds()
        self._threads = threading.BoundedSemaphore(MAX_THREADS)
        # Both write addresses down: Apprise when it is talkative, urllib3 when it tries again.
        theirs = logging.getLogger("apprise")
        theirs.handlers, theirs.propagate = [_Ear(logging.WARNING)], False
        theirs.setLevel(logging.WARNING)
        logging.getLogger("urllib3").setLevel(logging.ERROR)

    def check(self, address: str) -> None:
        plugin = self._open(address)
        host = _host_of(plugin)
        if host is not None and not self._allows(*host, plugin):
            raise InvalidInputError(
                "address", "leads to a host that is not allowed", f"use a host of {self._sources.settings}_HOSTS"
            )

    async def send(
        self, address: str, message: Letter, *, secrets: Collection[str], now: dt.datetime
    ) -> Heard | Unheard:
        del secrets, now
        if not self._threads.acquire(blocking=False):
            return Unheard("too much mail and chat is under way")
        try:
            async with asyncio.timeout(self._timeout_s):
                return await _in_thread(lambda: self._deliver(address, message), self._threads.release)
        except TimeoutError:
            return Unheard(f"not sent within {self._timeout_s:g} s")

    def _deliver(self, address: str, message: Letter) -> Heard | Unheard:
        """Send; blocks."""
        try:
            self.check(address)
            plugin = self._open(address)
            host = _host_of(plugin)
            if host is not None:
                self._look_up(*host)
        except InvalidInputError as exc:
            return Unheard(str(exc))
        _words.last = ""
        sent = plugin.notify(
            body=message.text,
            title=message.title,
            notify_type=NotifyType.INFO,
            body_format=NotifyFormat.TEXT,
        )
        return Heard() if sent else Unheard(_reason(_words.last))

    def _open(self, address: str) -> NotifyBase:
        """Make Apprise's object of an address.

        Raises:
            InvalidInputError: It is none, or of a service that is not allowed; the text does not repeat it.
        """
        scheme = address.partition("://")[0].lower()
        if scheme not in self._services:
            allowed = ", ".join(sorted(self._services)) or "none"
            raise InvalidInputError(
                "address", f"is of a service that is not allowed here ({allowed})", f"have {self._setting} name it"
            )
        if not address.isprintable():
            raise InvalidInputError("address", "has characters that no address has", "percent-encode them")
        plugin = None
        with contextlib.suppress(Exception):  # a library's parser, and strangers' text
            parts = PLUGINS[scheme].parse_url(address) or {}
            plugin = PLUGINS[scheme](asset=_asset(), **parts) if _is_harmless(scheme, parts) else None
        if plugin is None:
            raise InvalidInputError(
                "address",
                f"is no address of {scheme}, or has a parameter that is not allowed here",
                f"write it as https://appriseit.com/services/ says of {scheme}, without parameters",
            )
        plugin.redirects = False
        plugin.socket_connect_timeout, plugin.socket_read_timeout = CONNECT_S, READ_S
        return plugin

    def _allows(self, host: str, port: int, plugin: NotifyBase) -> bool:
        if isinstance(plugin, NotifyEmail):
            return self._sources.allows_host(host, port, usual=_MAIL_PORTS)
        return self._sources.allows_host(host, port)

    def _look_up(self, host: str, port: int) -> None:
        try:
            found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
        except OSError:
            raise InvalidInputError("address", "its host has no address now", "use another") from None
        if not all(map(self._sources.allows_address, found)):
            raise InvalidInputError("address", "leads to an address that is not public", "use a public one")


def _is_harmless(scheme: str, parts: Mapping[str, Any]) -> bool:
    """Whether an address has no parameters but the allowed ones: as Apprise read them, which it does its own way."""
    given = {*parts.get("qsd", ()), *parts.get("qsd+", ()), *parts.get("qsd-", ()), *parts.get("qsd:", ())}
    return bool(parts) and given <= (_MAIL_PARAMETERS if scheme in {"mailto", "mailtos"} else frozenset())


def _asset() -> AppriseAsset:
    return AppriseAsset(
        app_id="Hueshift",
        app_desc="Hueshift",
        app_url="",
        image_url_mask="",
        image_url_logo="",
        http_redirects=False,
        pgp_autogen=False,
        pem_autogen=False,
    )


def _host_of(plugin: NotifyBase) -> tuple[str, int] | None:
    """Return host and port where the address names them; the other services' are their own."""
    if isinstance(plugin, NotifyEmail):
        return str(plugin.smtp_host).lower(), int(plugin.port or 0)
    if isinstance(plugin, NotifyJSON | NotifyWorkflows):
        plain = isinstance(plugin, NotifyJSON) and not plugin.secure
        return str(plugin.host).lower(), int(plugin.port or (80 if plain else 443))
    return None


def _reason(words: str) -> str:
    """Say why a message was not taken, in words of our own: Apprise's may repeat what was in the address."""
    status = re.search(r"\berror=(\d{3})\b", words)
    if status:
        return f"answered {status[1]}"
    if "onnection error" in words:
        return "its host does not answer"
    return "did not take it"


async def _in_thread(work: Callable[[], Heard | Unheard], ended: Callable[[], None]) -> Heard | Unheard:
    """Wait for *work* in a thread that nobody waits for when this process ends; *ended* is called when it is over."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Heard | Unheard] = loop.create_future()

    def settle(outcome: Heard | Unheard) -> None:
        if not future.done():  # else nobody waits any more
            future.set_result(outcome)

    def run() -> None:
        try:
            outcome = work()
        except Exception as exc:  # noqa: BLE001 - a library's bug in a thread that nobody watches
            outcome = Unheard(f"failed ({type(exc).__name__})")
        finally:
            ended()
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, outcome)

    threading.Thread(target=run, name="notice", daemon=True).start()
    return await future
