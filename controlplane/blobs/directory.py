"""Blobs as files of one folder: written beside, synced, then moved into place, so that none is ever half there."""

import asyncio
import dataclasses
import os
import pathlib
import tempfile

from controlplane.errors import NotFoundError, UnavailableError


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

    def _path(self, key: str) -> pathlib.Path:
        parts = pathlib.PurePosixPath(key).parts
        if not parts or ".." in parts or key.startswith("/"):
            raise ValueError(f"{key!r} leads out of the folder")
        return self.folder.joinpath(*parts)

    def _put(self, path: pathlib.Path, content: bytes) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=".part-")  # mode 0600
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

    def _unavailable(self, exc: OSError) -> UnavailableError:
        return UnavailableError(
            f"HUESHIFT_BLOBS: {self.folder} cannot be used ({exc.strerror}); make it writable, or name another place"
        )


def _sync_folder(folder: pathlib.Path) -> None:
    """Have the file's name outlive a loss of power, too."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
