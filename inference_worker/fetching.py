"""Fetches one file over HTTP so that it is there whole or not at all, and goes on where it was cut off.

A file grows as `NAME.part`, with the server's ETag beside it in `NAME.part.etag`, and gets its name only when it is
complete and its checksum right. What is left of a download that was cut off is asked for by `Range`, and by `If-Range`
so that a server whose file has changed since sends all of it; a server that ignores ranges does too.
"""

import dataclasses
import http
import http.client
import ipaddress
import os
import re
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from email.message import Message
from pathlib import Path
from typing import IO, Final

from inference_worker import VERSION
from inference_worker.catalogue import hash_file
from inference_worker.errors import PullError

CHUNK_BYTES: Final = 2**20
TOLD_EVERY_BYTES: Final = 64 * 2**20
TOLD_TIMES: Final = 20
MAX_PAUSE_S: Final = 30.0
AGAIN: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
CONTENT_RANGE: Final = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)")


class CutError(Exception):
    """This attempt came to nothing; another one may go on."""


class BeyondError(CutError):
    """Nothing comes after what is there already; of a file of *total* bytes, where the server says so."""

    def __init__(self, total: int | None) -> None:
        super().__init__("the server's file is shorter than what was kept of it")
        self.total = total


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A file that is to be fetched, and what is known of it."""

    url: str
    sha256: str | None
    """None: whatever comes is believed."""
    size_bytes: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
    """What an answer carries: bytes from *start*, of *total* in all where the server says so."""

    start: int
    total: int | None
    etag: str


def check_url(url: str, *, is_plain_allowed: bool, before: str | None = None) -> None:
    """Refuse an address over which anybody between could change what comes: https, or http on this machine.

    Args:
        url: The address.
        is_plain_allowed: Take http from anywhere.
        before: The address that redirected here; https is never left, nor another machine for this one.

    Raises:
        PullError: Names the address and what would be taken.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise PullError(f"url: {url} is no address of a file; give https://HOST/PATH")
    if parts.username or parts.password:
        raise PullError(f"url: {parts.hostname} is asked without a name; leave user and password out")
    is_plain_fine = is_plain_allowed or (is_loopback(url) and (before is None or is_loopback(before)))
    if parts.scheme == "http" and not is_plain_fine:
        raise PullError(f"url: {url} is plain http; give https, or --insecure-http if you must")


def is_loopback(url: str) -> bool:
    """Whether *url* is on this machine."""
    host = urllib.parse.urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a redirect only to an address that would have been taken at first."""

    def __init__(self, *, is_plain_allowed: bool) -> None:
        self._is_plain_allowed = is_plain_allowed

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request | None:
        check_url(newurl, is_plain_allowed=self._is_plain_allowed, before=req.full_url)
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type] # the stub's own


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fetcher:
    """How files are fetched."""

    say: Callable[[str], None]
    """Told how far it is."""
    pause: Callable[[float], None]
    """Waits for so many seconds."""
    is_plain_allowed: bool = False
    max_bytes: int = 4 * 2**30
    """Largest file, where its size is not known before."""
    attempts: int = 6
    timeout_s: float = 30.0
    """Longest wait for a connection, or for the next byte."""

    def fetch(self, wanted: Wanted, target: Path) -> str:
        """Make *target* the file that is wanted, in the place of another one; returns its SHA-256.

        Raises:
            PullError: It is not there, too large or another file than the card says, and nothing is kept of it; or the
                connection was lost too often, and what has come is kept for the next call.
        """
        part = target.with_name(f"{target.name}.part")
        check_url(wanted.url, is_plain_allowed=self.is_plain_allowed)
        for attempt in range(self.attempts):
            try:
                if not self._is_complete(wanted, part):
                    self._go_on(wanted, part)
                break
            except CutError as exc:
                if attempt + 1 == self.attempts:
                    kept = f"{_size(part)} bytes are kept, and the same command goes on from there"
                    raise PullError(f"url: {wanted.url}: {exc}, {self.attempts} times; {kept}") from exc
                self.say(f"{exc}; trying again")
                self.pause(min(MAX_PAUSE_S, 2.0**attempt))
        return self._finish(wanted, part, target)

    def fetch_text(self, url: str, max_bytes: int) -> tuple[str, str]:
        """A small text, and the address that it came from in the end.

        Raises:
            PullError: It is not there, too large or no text.
        """
        check_url(url, is_plain_allowed=self.is_plain_allowed)
        try:
            with self._open(url, {}) as answer:
                data, last = answer.read(max_bytes + 1), answer.url
                announced = read_piece(answer.status, answer.headers).total or 0
        except (CutError, OSError, http.client.HTTPException) as exc:
            raise PullError(f"url: {url} cannot be fetched ({exc}); try again later") from exc
        if len(data) > max_bytes:
            raise PullError(f"url: {url} has more than {max_bytes} bytes; give the address of a model.toml")
        if len(data) < announced:
            raise PullError(f"url: {url} was cut off after {len(data)} of {announced} bytes; try again")
        try:
            return data.decode(), last
        except UnicodeDecodeError as exc:
            raise PullError(f"url: {url} is no text; give the address of a model.toml") from exc

    def _is_complete(self, wanted: Wanted, part: Path) -> bool:
        return wanted.sha256 is not None and wanted.size_bytes is not None and _size(part) == wanted.size_bytes

    def _go_on(self, wanted: Wanted, part: Path) -> None:
        done, etag = self._look_at(wanted, part)
        headers = {"Range": f"bytes={done}-"} if done else {}
        headers |= {"If-Range": etag} if done and _is_strong(etag) else {}
        try:
            with self._open(wanted.url, headers) as answer:
                piece = read_piece(answer.status, answer.headers)
                if piece.start not in {0, done} or (piece.start and etag and piece.etag not in {etag, ""}):
                    _forget(part)
                    raise CutError("the file has changed on the server")
                self._check_size(wanted, piece, part)
                if done and not piece.start:
                    self.say("the server sends all of it again")
                self._save(wanted, answer, piece, part)
        except BeyondError as exc:
            if exc.total != done:
                _forget(part)
                raise
        except (OSError, http.client.HTTPException) as exc:
            raise CutError(f"the connection was lost ({_tell(exc)})") from exc

    def _look_at(self, wanted: Wanted, part: Path) -> tuple[int, str]:
        """How many bytes can be gone on from, and the ETag they were sent under."""
        mark = part.with_name(f"{part.name}.etag")
        try:
            etag = mark.read_text(encoding="utf-8")
        except OSError:
            etag = ""
        done = _size(part)
        is_sure = wanted.sha256 is not None or _is_strong(etag)  # else nothing would tell two halves of two files
        is_part = wanted.size_bytes is None or done < wanted.size_bytes
        return (done, etag) if is_sure and is_part else (0, "")

    def _open(self, url: str, headers: dict[str, str]) -> http.client.HTTPResponse:
        request = urllib.request.Request(url, headers={"User-Agent": f"hueshift-worker/{VERSION}"} | headers)  # noqa: S310 - checked
        proxies = [urllib.request.ProxyHandler({})] if is_loopback(url) else []
        opener = urllib.request.build_opener(Redirects(is_plain_allowed=self.is_plain_allowed), *proxies)
        try:
            answer: http.client.HTTPResponse = opener.open(request, timeout=self.timeout_s)
        except urllib.error.HTTPError as exc:
            exc.close()
            if exc.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and headers:
                found = CONTENT_RANGE.fullmatch(exc.headers.get("Content-Range", ""))
                raise BeyondError(None if found is None or found[2] == "*" else int(found[2])) from exc
            if exc.code in AGAIN:
                raise CutError(f"the server answered {exc.code}") from exc
            raise PullError(f"url: {url} was answered with {exc.code} {exc.reason}; see to the address") from exc
        except (OSError, http.client.HTTPException) as exc:
            reason = exc.reason if isinstance(exc, urllib.error.URLError) else exc
            if isinstance(reason, ssl.SSLCertVerificationError):
                raise PullError(f"url: {url} has no valid certificate ({reason.verify_message})") from exc
            raise CutError(f"no answer ({_tell(exc)})") from exc
        return answer

    def _check_size(self, wanted: Wanted, piece: Piece, part: Path) -> None:
        if wanted.sha256 is None and piece.total is None:
            raise PullError(f"url: {wanted.url} is of unknown size and checksum, so nothing would tell if it is whole")
        if wanted.size_bytes is not None and piece.total not in {None, wanted.size_bytes}:
            _forget(part)
            raise PullError(f"url: {wanted.url} has {piece.total} bytes, and its card says {wanted.size_bytes}")
        if piece.total is not None and wanted.size_bytes is None and piece.total > self.max_bytes:
            raise PullError(f"url: {wanted.url} has {piece.total} bytes; give a larger --max-mb if that is right")

    def _save(self, wanted: Wanted, answer: http.client.HTTPResponse, piece: Piece, part: Path) -> None:
        most = wanted.size_bytes or self.max_bytes
        total = piece.total or wanted.size_bytes
        step = TOLD_EVERY_BYTES if total is None else max(CHUNK_BYTES, total // TOLD_TIMES)
        done = told = piece.start
        with _open_part(part, piece) as out:
            while data := answer.read1(CHUNK_BYTES):  # what is there, so that it is kept if no more comes
                done += len(data)
                if done > most:
                    _forget(part)
                    raise PullError(f"url: {wanted.url} has more than {most} bytes; see to the address, or to --max-mb")
                _write(out, data)
                if done - told >= step:
                    told = done
                    self.say(
                        f"{_megabytes(done)}" if total is None else f"{100 * done // total:3} %  {_megabytes(done)}"
                    )
            os.fsync(out.fileno())
        if total is not None and done < total:
            raise CutError(f"the connection was lost after {done} of {total} bytes")

    def _finish(self, wanted: Wanted, part: Path, target: Path) -> str:
        try:
            found = hash_file(part)
            if wanted.sha256 not in {None, found}:
                _forget(part)
                raise PullError(
                    f"url: what came from {wanted.url} has SHA-256 {found}, and its card says {wanted.sha256}; "
                    "it was deleted"
                )
            part.replace(target)
        except OSError as exc:
            raise PullError(f"{target} cannot be written ({exc.strerror}); see to the folder") from exc
        _forget(part)
        return found


def read_piece(status: int, headers: Message) -> Piece:
    """What an answer with these headers carries.

    Raises:
        CutError: It is a part of a file, and does not say which.
    """
    etag = headers.get("ETag", "")
    if status == http.HTTPStatus.PARTIAL_CONTENT:
        found = CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
        if found is None or found[1] is None:
            raise CutError("the server sent a part of it without saying which")
        return Piece(int(found[1]), None if found[2] == "*" else int(found[2]), etag)
    length = headers.get("Content-Length", "")
    return Piece(0, int(length) if length.isdecimal() else None, etag)


def _open_part(part: Path, piece: Piece) -> IO[bytes]:
    """The file to write to: emptied, and marked with the new ETag, unless the piece goes on where it ends."""
    try:
        if piece.start:
            return part.open("ab")
        out = part.open("wb")
        part.with_name(f"{part.name}.etag").write_text(piece.etag, encoding="utf-8")
    except OSError as exc:
        raise PullError(f"{part} cannot be written ({exc.strerror}); name a folder of yours") from exc
    return out


def _write(out: IO[bytes], data: bytes) -> None:
    try:
        out.write(data)
        out.flush()
    except OSError as exc:
        raise PullError(f"{out.name} cannot be written ({exc.strerror}); see to the disk, and run it again") from exc


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    part.with_name(f"{part.name}.etag").unlink(missing_ok=True)


def _size(part: Path) -> int:
    try:
        return part.stat().st_size
    except OSError:
        return 0


def _is_strong(etag: str) -> bool:
    return etag.startswith('"')


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _tell(exc: Exception) -> str:
    return str(exc) or type(exc).__name__
