"""`hueshift-worker models pull`: fetches a model's files, by a card that is here, by one on a server, or by its name.

The card is written last: a folder without one is no model, so nobody serves a half of it.
"""

import argparse
import contextlib
import dataclasses
import fcntl
import os
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from inference_worker.cards import CARD, Backend, ModelCard, ModelFile, parse_card, read_name
from inference_worker.catalogue import find_card, hash_file, make_folder, record
from inference_worker.clock import SystemClock
from inference_worker.ddcolor.published import PUBLISHED, Published, describe
from inference_worker.errors import ModelError, PullError, SettingError
from inference_worker.fetching import Fetcher, Wanted
from inference_worker.model_commands import make_reporter

MAX_CARD_BYTES: Final = 256 * 1024


def run(args: argparse.Namespace) -> int:
    """Fetch one model; returns the exit code.

    Raises:
        SettingError: A flag is impossible.
        ModelError: There is no such model, its card is not valid, or it is here with another card.
        PullError: Its files could not be fetched, or are not what the card says.
    """
    if (args.name is None) == (args.source is None):
        raise SettingError("name: give the name of a model, or --from URL")
    if not 1 <= args.max_mb <= 2**20:
        raise SettingError(f"--max-mb: {args.max_mb} is impossible; give 1 to {2**20}")
    fetcher = Fetcher(
        say=make_reporter(SystemClock()),
        pause=time.sleep,
        is_plain_allowed=args.insecure_http,
        max_bytes=args.max_mb * 2**20,
    )
    if args.source is not None:
        pull_from(args.source, args.models_dir, fetcher)
    elif args.name in PUBLISHED and not (args.models_dir / args.name / CARD).exists():
        pull_published(PUBLISHED[args.name], args.models_dir, fetcher)
    else:
        pull(find_card(args.models_dir, args.name), fetcher)
    return 0


def pull_from(url: str, models: Path, fetcher: Fetcher) -> ModelCard:
    """Fetch the model whose card is at *url*; a file without an address lies beside it.

    Raises:
        ModelError: The card is not valid, or the model is here with another card.
        PullError: Card or files could not be fetched.
    """
    text, last = fetcher.fetch_text(url, MAX_CARD_BYTES)
    name = read_name(text, url)
    there = parse_card(text, folder=models / name, find_base=lambda other: find_card(models, other))
    files = tuple(
        dataclasses.replace(file, url=file.url or urllib.parse.urljoin(last, file.name)) for file in there.files
    )
    card = dataclasses.replace(there, files=files)
    if (models / name / CARD).exists() and find_card(models, name) != card:
        raise ModelError(f"--from: {models / name} holds another {name}; remove it, or give another --models-dir")
    make_folder(models, name)
    pull(card, fetcher)
    record(models, card)
    fetcher.say(f"{name} is in {models}, {card.checksum}")
    return card


def pull(card: ModelCard, fetcher: Fetcher) -> None:
    """Fetch those of the card's files that are not here, or not as it says.

    Raises:
        ModelError: One has no address.
        PullError: One could not be fetched, or is not what the card says.
    """
    with _alone(card.folder):
        for file in card.files:
            target = card.folder / file.name
            if target.exists() and hash_file(target) == file.sha256:
                fetcher.say(f"{file.name} is here, as its card says")
                continue
            if file.url is None:
                raise ModelError(f"{card.folder / CARD}: files: {file.name} has no url; add it, or copy the file there")
            fetcher.say(f"fetching {file.name} from {file.url}")
            fetcher.fetch(Wanted(url=file.url, sha256=file.sha256, size_bytes=file.size_bytes), target)
            fetcher.say(f"{file.name} is whole, SHA-256 {file.sha256}")


def pull_published(one: Published, models: Path, fetcher: Fetcher) -> ModelCard:
    """Fetch a checkpoint of DDColor's authors, and believe what comes: from then on its card holds the checksum.

    Raises:
        PullError: It could not be fetched.
    """
    fetcher.say(f"{one.name}: checksum not known: recorded on first download; its authors state no licence for weights")
    fetcher.say(f"fetching {one.url}")
    target = make_folder(models, one.name) / "weights.pth"
    with _alone(target.parent):
        found = fetcher.fetch(Wanted(url=one.url, sha256=None), target)
    card = describe(
        one.name,
        target.parent,
        ModelFile(name=target.name, sha256=found, size_bytes=target.stat().st_size, url=one.url),
        backend=Backend.TORCH,
        about=f"{one.about}. Run by torch.",
        origin=f"{one.url}; its checksum is that of the first download here",
    )
    record(models, card)
    fetcher.say(f"recorded {card.checksum}: compare it with somebody else's before you rely on it")
    return card


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Two downloads would write into each other's files."""
    lock = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise PullError(f"{folder} is being pulled into by another process; wait for it") from exc
        yield
    finally:
        os.close(lock)
