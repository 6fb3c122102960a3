"""Processes that tests start and watch by what they log."""

import asyncio
import contextlib
import dataclasses
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

SERVE = ("-m", "inference_worker", "serve", "--model", "v1")


@dataclasses.dataclass
class Program:
    """A process whose log is read line by line."""

    process: asyncio.subprocess.Process
    log: list[str] = dataclasses.field(default_factory=list)

    async def wait_line(self, words: str) -> str:
        """The next line of the log with *words*."""
        assert self.process.stderr is not None
        async with asyncio.timeout(60):
            while line := (await self.process.stderr.readline()).decode():
                self.log.append(line)
                if words in line:
                    return line
        raise AssertionError(f"it ended before {words!r}: {self.log}")

    async def wait_ended(self) -> int:
        """Its exit code, once it and all that it started are gone: they share one end of a pipe."""
        assert self.process.stderr is not None
        async with asyncio.timeout(60):
            self.log += (await self.process.stderr.read()).decode().splitlines()
            return await self.process.wait()

    @property
    def children(self) -> list[int]:
        pid = self.process.pid
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextlib.asynccontextmanager
async def running(arguments: Sequence[str], variables: Mapping[str, str] | None = None) -> AsyncIterator[Program]:
    """Start Python with *arguments*; killed at the end, with what it started, if it still runs."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        stderr=asyncio.subprocess.PIPE,
        limit=2**20,
        env={**os.environ, **(variables or {})},
    )
    program = Program(process)
    try:
        yield program
    finally:
        if process.returncode is None:
            process.kill()  # a worker below it notices
        await program.wait_ended()
