"""Speaks REST like any other client, and turns what goes wrong into one line and an exit code.

The key is taken from HUESHIFT_API_KEY, or from the file that HUESHIFT_API_KEY_FILE names; towards a control plane on
this machine also from the file that its first start wrote. It is sent nowhere else, and never printed.
"""

import contextlib
import enum
import ipaddress
import pathlib
import urllib.parse
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import httpx
from pydantic import TypeAdapter, ValidationError

from controlplane.api.answering import Page, Problem
from controlplane.codes import Code, by_slug, find_slug
from controlplane.errors import (
    ConflictError,
    ControlPlaneError,
    ForbiddenError,
    InvalidInputError,
    NotFoundError,
    StaleWriteError,
    UnauthorizedError,
    UnavailableError,
)

T = TypeVar("T")

DEFAULT_URL: Final = "http://127.0.0.1:8000"
TIMEOUT_S: Final = 30.0


class ExitCode(enum.IntEnum):
    """What a command's end means to a script."""

    OK = 0
    NEGATIVE = 1
    """The answer is no: rolled back, not valid, a bench that failed."""
    INPUT = 2
    """The command or its input is wrong; for `status` also: not decided in time, or a person must look."""
    UNREACHABLE = 3
    """The control plane or its database does not answer."""
    REFUSED = 4
    """The control plane said no: there is no such thing, it conflicts with what runs, or the key is not accepted."""


class RefusalError(ControlPlaneError):
    """The control plane's own no, with everything that it found wrong."""

    def __init__(
        self, status: int, lines: tuple[str, ...], *, code: str = "", retry_after_s: float | None = None
    ) -> None:
        super().__init__(lines[0])
        self.status = status
        self.lines = lines
        self.code = code
        """What kind of no it is, as the API's answer calls it; "" where it was no answer of ours."""
        self.retry_after_s = retry_after_s
        """When to come again, if it said so."""


class UnreachableError(UnavailableError):
    """There is no way to the API's address."""


class SlowAnswerError(UnavailableError):
    """The API took the request and did not answer in time."""


class StrangeAnswerError(UnavailableError):
    """What answers is not this version of Hueshift."""


class NotConfirmedError(InvalidInputError):
    """A command that destroys something was not confirmed."""


def code_of(exc: ControlPlaneError) -> Code | None:
    """Return the code of an error; None for one that another release of the API has made up."""
    match exc:
        case RefusalError(code=""):
            return by_slug("not_hueshift")
        case RefusalError(code=slug):
            return find_slug(slug)
        case UnreachableError():
            return by_slug("unreachable")
        case SlowAnswerError():
            return by_slug("slow")
        case StrangeAnswerError():
            return by_slug("not_hueshift")
        case NotConfirmedError():
            return by_slug("not_confirmed")
        case InvalidInputError():
            return by_slug("invalid_input")
        case NotFoundError():
            return by_slug("not_found")
        case ConflictError() | StaleWriteError():
            return by_slug("conflict")
        case UnauthorizedError():
            return by_slug("unauthorized")
        case ForbiddenError():
            return by_slug("forbidden")
        case UnavailableError():
            return by_slug("service_unavailable")
        case _:
            return by_slug("negative")


class _Refused(Problem):
    """What a refusal is read for."""

    code: str = ""
    problems: tuple[Problem, ...] = ()


def exit_code(exc: ControlPlaneError) -> ExitCode:
    """Return the exit code of an error."""
    match exc:
        case RefusalError(status=status):
            if status in {400, 413, 415, 422}:
                return ExitCode.INPUT
            return ExitCode.UNREACHABLE if status >= 500 else ExitCode.REFUSED
        case NotFoundError() | ConflictError() | StaleWriteError() | UnauthorizedError() | ForbiddenError():
            return ExitCode.REFUSED
        case InvalidInputError():
            return ExitCode.INPUT
        case UnavailableError():
            return ExitCode.UNREACHABLE
        case _:
            return ExitCode.NEGATIVE


def is_local(url: str) -> bool:
    """Whether *url* leads to this machine."""
    host = urllib.parse.urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def find_key(environment: Mapping[str, str], url: str) -> str | None:
    """Return the API key to use towards *url*, if there is one.

    Raises:
        InvalidInputError: HUESHIFT_API_KEY_FILE names a file that cannot be read.
    """
    if key := environment.get("HUESHIFT_API_KEY", "").strip():
        return key
    if named := environment.get("HUESHIFT_API_KEY_FILE", ""):
        try:
            return pathlib.Path(named).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeError) as exc:
            raise InvalidInputError(
                "HUESHIFT_API_KEY_FILE", f"{named} cannot be read ({exc})", "name the file that holds your API key"
            ) from exc
    if is_local(url):
        try:
            return (pathlib.Path(environment.get("HUESHIFT_DATA_DIR", "var")) / "admin.key").read_text("utf-8").strip()
        except (OSError, UnicodeError):
            return None
    return None


def check_url(url: str) -> str:
    """Return the API's address without a slash at its end.

    Raises:
        InvalidInputError: It is not an HTTP address.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise InvalidInputError("HUESHIFT_URL", f"{url!r} is not an HTTP address", f"write it like {DEFAULT_URL}")
    return url.rstrip("/")


class Client:
    """One caller of the API.

    Args:
        url: Where it is.
        key: The API key, None to go without.
        transport: Another way to get there than a socket.
        waiting: What surrounds each request.
        timeout_s: How long an answer is waited for.
    """

    def __init__(
        self,
        url: str,
        key: str | None,
        *,
        transport: httpx.BaseTransport | None = None,
        waiting: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._timeout_s = timeout_s
        self.url = url
        self._waiting = waiting
        self._has_key = bool(key)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        # Proxies of the environment are for the way out, not for this machine.
        self._http = httpx.Client(
            base_url=url, headers=headers, timeout=timeout_s, transport=transport, trust_env=not is_local(url)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def get(self, answer: type[T], *path: str, **query: str | int) -> T:
        """Read something.

        Raises:
            RefusalError: The API said no.
            UnavailableError: It cannot be reached, or answers something else.
        """
        return self._ask(answer, "GET", path, query=query)

    def get_all(self, item: type[T], *path: str, **query: str | int) -> list[T]:
        """Read a list to its end, page by page; raises as `get` does."""
        found: list[T] = []
        while True:
            page = self.get_page(item, *path, **query)
            found += page.items
            if page.next is None:
                return found
            query["cursor"] = page.next

    def get_page(self, item: type[T], *path: str, **query: str | int) -> Page[T]:
        """Read one page of a list; raises as `get` does."""
        return self._ask(Page[item], "GET", path, query=query)  # type: ignore[valid-type] # pydantic makes the class

    def get_bytes(self, *path: str) -> bytes:
        """Read something that is no JSON; raises as `get` does."""
        return self._request("GET", path).content

    @contextlib.contextmanager
    def stream(self, *path: str, headers: Mapping[str, str], **query: str | int) -> Iterator[Iterator[str]]:
        """Read something that has no end, line by line, while this is open; raises as `get` does, at any line too."""
        address = "/v1/" + "/".join(urllib.parse.quote(part, safe="") for part in path)
        try:
            with self._http.stream("GET", address, params=query, headers=headers) as response:
                if response.is_error:
                    response.read()
                    raise self._refusal(response)
                yield response.iter_lines()
        except httpx.HTTPError as exc:
            why = " ".join(str(exc).split()) or type(exc).__name__
            raise UnreachableError(f"cannot reach {self.url} ({why}); start it with `hueshift serve`") from exc

    def put(self, answer: type[T], *path: str, body: Mapping[str, Any], **query: str) -> T:
        """Replace something; raises as `get` does."""
        return self._ask(answer, "PUT", path, body=body, query=query)

    def post(self, answer: type[T], *path: str, body: Mapping[str, Any], if_match: str | None = None) -> T:
        """Ask for something to be done, once, even if the connection breaks in between; raises as `get` does.

        *if_match* is the state that must hold still, as an earlier answer named it.
        """
        headers = {"If-Match": f'"{if_match}"'} if if_match else None
        return self._ask(answer, "POST", path, body=body, headers=headers)

    def post_bytes(self, answer: type[T], *path: str, content: bytes, **query: str) -> T:
        """Send something that is no JSON, once, as `post` does; raises as `get` does."""
        return self._ask(answer, "POST", path, content=content, query=query)

    def delete(self, *path: str, if_match: str | None = None, reason: str = "") -> None:
        """Remove something, if it is *if_match* still where that is given; raises as `get` does."""
        headers = {"If-Match": if_match} if if_match else {}
        self._request("DELETE", path, headers=headers | ({"X-Hueshift-Reason": reason} if reason else {}))

    def _ask(
        self,
        answer: type[T],
        method: str,
        path: Iterable[str],
        *,
        body: Mapping[str, Any] | None = None,
        content: bytes | None = None,
        query: Mapping[str, str | int] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> T:
        response = self._request(method, path, body=body, content=content, query=query, headers=headers)
        try:
            return TypeAdapter(answer).validate_json(response.content)
        except ValidationError as exc:
            raise StrangeAnswerError(
                f"{self.url} does not answer like this version of hueshift; check HUESHIFT_URL, or update one of them"
            ) from exc

    def _request(
        self,
        method: str,
        path: Iterable[str],
        *,
        body: Mapping[str, Any] | None = None,
        content: bytes | None = None,
        query: Mapping[str, str | int] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        address = "/v1/" + "/".join(urllib.parse.quote(part, safe="") for part in path)
        keyed = {"Idempotency-Key": uuid.uuid4().hex} if method in {"POST", "PUT"} else {}
        headers = {**(headers or {}), **keyed}
        if content is not None:
            headers["Content-Type"] = "application/octet-stream"
        request = self._http.build_request(method, address, json=body, content=content, params=query, headers=headers)
        try:
            with self._waiting():
                response = self._send(request)
        except httpx.TimeoutException as exc:
            raise SlowAnswerError(f"{self.url} did not answer within {self._timeout_s:g} s; try again") from exc
        except httpx.HTTPError as exc:
            why = " ".join(str(exc).split()) or type(exc).__name__
            raise UnreachableError(
                f"cannot reach {self.url} ({why}); start it with `hueshift serve`, or set HUESHIFT_URL"
            ) from exc
        if response.is_error:
            raise self._refusal(response)
        return response

    def _send(self, request: httpx.Request) -> httpx.Response:
        try:
            return self._http.send(request)
        except (httpx.ReadError, httpx.RemoteProtocolError):
            # The connection broke on the way: every request of ours may be repeated, so once more.
            return self._http.send(request)

    def _refusal(self, response: httpx.Response) -> RefusalError:
        later = response.headers.get("Retry-After", "")
        after_s = float(later) if later.isascii() and later.isdigit() else None
        try:
            view = _Refused.model_validate_json(response.content)
        except ValidationError:
            status = f"{response.status_code} {response.reason_phrase}".strip()
            words = f"{self.url} answered {status}; check HUESHIFT_URL"
            return RefusalError(response.status_code, (words,), retry_after_s=after_s)
        if response.status_code == httpx.codes.UNAUTHORIZED and not self._has_key:
            words = "no API key: set HUESHIFT_API_KEY, or HUESHIFT_API_KEY_FILE to the file that holds it"
            return RefusalError(response.status_code, (words,), code="no_key")
        lines = tuple(problem.detail for problem in view.problems) or (view.detail,)
        return RefusalError(response.status_code, lines, code=view.code, retry_after_s=after_s)
