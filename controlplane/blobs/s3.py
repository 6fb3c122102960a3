"""Blobs in a bucket of S3, or of what speaks its protocol; by boto3, whose calls block, in threads."""

import asyncio
import dataclasses
import datetime as dt
from collections.abc import Callable
from typing import Any, Final, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from controlplane.errors import NotFoundError, UnavailableError
from controlplane.jobs.ports import MAX_LISTED, StoredBlob

T = TypeVar("T")

TIMEOUT_S: Final = 10
CONNECTIONS: Final = 32
_ABSENT: Final = frozenset({"NoSuchKey", "404"})


@dataclasses.dataclass(frozen=True, slots=True)
class S3Blobs:
    """The port `BlobStore` on a bucket that exists. Who we are is for the usual AWS variables and files to say."""

    bucket: str
    prefix: str
    client: Any

    async def put_blob(self, key: str, content: bytes) -> None:
        await self._ask(lambda: self.client.put_object(Bucket=self.bucket, Key=self.prefix + key, Body=content))

    async def get_blob(self, key: str) -> bytes:
        def read() -> bytes:
            found: bytes = self.client.get_object(Bucket=self.bucket, Key=self.prefix + key)["Body"].read()
            return found

        try:
            return await self._ask(read)
        except UnavailableError as exc:
            cause = exc.__cause__
            if isinstance(cause, ClientError) and cause.response["Error"]["Code"] in _ABSENT:
                raise NotFoundError("blob", key) from cause
            raise

    async def delete_blob(self, key: str) -> None:
        await self._ask(lambda: self.client.delete_object(Bucket=self.bucket, Key=self.prefix + key))

    async def list_blobs(self, prefix: str, *, after: str = "", limit: int = MAX_LISTED) -> tuple[StoredBlob, ...]:
        asked = {"Bucket": self.bucket, "Prefix": self.prefix + prefix, "MaxKeys": min(limit, MAX_LISTED)}
        if after:
            asked["StartAfter"] = self.prefix + after
        answer = await self._ask(lambda: self.client.list_objects_v2(**asked))
        return tuple(
            StoredBlob(each["Key"].removeprefix(self.prefix), each["LastModified"].astimezone(dt.UTC))
            for each in answer.get("Contents", ())
        )

    async def _ask(self, call: Callable[[], T]) -> T:
        try:
            return await asyncio.to_thread(call)
        except (BotoCoreError, ClientError, OSError) as exc:
            words = " ".join(str(exc).split())
            raise UnavailableError(f"HUESHIFT_BLOBS: the bucket {self.bucket} cannot be used ({words})") from exc


def open_bucket(bucket: str, *, prefix: str = "", endpoint: str | None = None) -> S3Blobs:
    """Return the blobs of *bucket* under *prefix*; *endpoint* is the address of another S3 than Amazon's.

    Raises:
        UnavailableError: boto3 does not know which region to ask, or cannot use its settings.
    """
    config = Config(
        connect_timeout=TIMEOUT_S,
        read_timeout=TIMEOUT_S,
        max_pool_connections=CONNECTIONS,
        retries={"max_attempts": 2, "mode": "standard"},
    )
    try:
        return S3Blobs(bucket, prefix, boto3.session.Session().client("s3", endpoint_url=endpoint, config=config))
    except (BotoCoreError, ValueError) as exc:
        raise UnavailableError(f"HUESHIFT_BLOBS: S3 cannot be used ({' '.join(str(exc).split())})") from exc
