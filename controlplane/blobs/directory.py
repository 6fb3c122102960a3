"""Blobs as files of one folder: written beside, synced, then moved into place, so that none is ever half there."""

import asyncio
import contextlib
import dataclasses
import datetime as dt
import heapq
import itertools
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Final

from controlplane.errors import NotFoundError, UnavailableError
from controlplane.jobs.ports import MAX_LISTED, StoredBlob

PART: Final = ".part-"
"""What the name of a file begins with that is being written, or was when its process was killed."""
TRIES: Final = 20


@dataclasses.dataclass(frozen=True, slots=True)
class DirectoryBlobs:
    """The port `BlobStore` on a folder, which is made when it is first written. Several processes may share it."""

    folder: pathlib.Path

    async def put_blob(self, key: str, content: bytes) -> None:
        await asyncio.to_thread(self._put, self._path(key), content)

    async def get_blob(self, key: str) -> bytes:
        return await asyncio.to_thread(self._get, key)

    async def has_blob(self, key: str) -> bool:
        return await asyncio.to_thread(self._has, self._path(key))

    async def delete_blob(self, key: str) -> None:
        await asyncio.to_thread(self._delete, self._path(key))

    async def list_blobs(self, prefix: str, *, after: str = "", limit: int = MAX_LISTED) -> tuple[StoredBlob, ...]:
        return await asyncio.to_thread(self._list, prefix, after, limit)

    def _path(self, key: str) -> pathlib.Path:
        parts = pathlib.PurePosixPath(key).parts
        if not parts or ".." in parts or key.startswith("/"):
            raise ValueError(f"{key!r} leads out of the folder")
        return self.folder.joinpath(*parts)

    def _put(self, path: pathlib.Path, content: bytes) -> None:
        try:
            handle, name = _open_part(path.parent)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                pathlib.Path(name).replace(path)
            except BaseException:
                pathlib.Path(name).unlink(missing_ok=True)
                raise
            _sync_folder(path.parent)
        except OSError as exc:
            raise self._unavailable(exc) from exc

    def _get(self, key: str) -> bytes:
        try:
            return self._path(key).read_bytes()
        except FileNotFoundError as exc:
            raise NotFoundError("blob", key) from exc
        except OSError as exc:
            raise self._unavailable(exc) from exc

    def _has(self, path: pathlib.Path) -> bool:
        try:
            path.stat()
        except FileNotFoundError:
            return False
        except OSError as exc:
            raise self._unavailable(exc) from exc
        return True

    def _delete(self, path: pathlib.Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as exc:
            raise self._unavailable(exc) from exc
        if path.parent.parent not in {self.folder, self.folder.parent}:  # a job's own folder is not kept empty
            with contextlib.suppress(OSError):
                path.parent.rmdir()

    def _list(self, prefix: str, after: str, limit: int) -> tuple[StoredBlob, ...]:
        top = prefix.rpartition("/")[0]
        found: list[StoredBlob] = []
        try:
            folder = self._path(top) if top else self.folder
            for key, path in _walk(str(folder), top and f"{top}/", prefix, after):
                with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                    written = os.stat(path).st_mtime  # noqa: PTH116 - a path object for each of a million takes its time
                    found.append(StoredBlob(key, dt.datetime.fromtimestamp(written, dt.UTC)))
                if len(found) == limit:
                    break
        except OSError as exc:
            raise self._unavailable(exc) from exc
        return tuple(found)

    def _unavailable(self, exc: OSError) -> UnavailableError:
        return UnavailableError(
            f"HUESHIFT_BLOBS: {self.folder} cannot be used ({exc.strerror}); make it writable, or name another place"
        )


def _open_part(folder: pathlib.Path) -> tuple[int, str]:
    """Make a file, mode 0600, in *folder*, which somebody who deleted its last blob may remove at this moment."""
    for left in reversed(range(TRIES)):
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            return tempfile.mkstemp(dir=folder, prefix=PART)
        except (FileNotFoundError, FileExistsError):  # the latter, when it went while mkdir looked what was in the way
            if not left:
                raise
    raise AssertionError  # not reached


def _walk(folder: str, base: str, prefix: str, after: str) -> Iterator[tuple[str, str]]:
    """Walk through the files whose keys are wanted, by key, without a look into folders that hold none of them.

    A folder may have a million files of which a page is wanted: a heap orders no more than are taken from it.
    """
    heap: list[tuple[str, str]] = []
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            key = f"{base}{entry.name}/" if entry.is_dir(follow_symlinks=False) else base + entry.name
            if _may_hold(key, prefix, after):
                heap.append((key, entry.path))
    heapq.heapify(heap)
    for key, path in map(heapq.heappop, itertools.repeat(heap, len(heap))):
        if key.endswith("/"):
            yield from _walk(path, key, prefix, after)
        else:
            yield key, path


def _may_hold(key: str, prefix: str, after: str) -> bool:
    """Whether *key*, a file's or a folder's with a slash at its end, is wanted, or may have something that is."""
    if key.endswith("/"):
        return (key > after or after.startswith(key)) and (key.startswith(prefix) or prefix.startswith(key))
    return key > after and key.startswith(prefix)


def _sync_folder(folder: pathlib.Path) -> None:
    """Have the file's name outlive a loss of power, too."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
