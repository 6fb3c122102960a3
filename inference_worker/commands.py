"""`hueshift-worker models list`, `show`, `verify`, `pull`: what a folder of models holds, and if it is as recorded."""

import argparse
import json
import sys
from pathlib import Path
from typing import Final

from inference_worker.cards import ModelCard, render_card
from inference_worker.catalogue import SHIPPED, find_card, list_names, verify
from inference_worker.ddcolor.published import PUBLISHED
from inference_worker.errors import ModelError

EXIT_FAILED: Final = 1


def add_commands(models: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the commands under `models`."""
    texts = {
        "list": "name them",
        "show": "all facts of one, and the line of a service's document that pins it",
        "verify": "check files against the SHA-256 sums of their cards; all models without a name",
    }
    for action, text in texts.items():
        command = models.add_parser(action, help=text, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        command.add_argument("--models-dir", type=Path, default=SHIPPED, help="folder of models")
        if action != "list":
            command.add_argument("name", nargs="*" if action == "verify" else None, help="a name from `models list`")
    add_pull(models)


def add_pull(models: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare `models pull`."""
    command = models.add_parser(
        "pull",
        help="fetch a model's files from the addresses in its card, and check their sums",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    command.add_argument("name", nargs="?", help=f"a model of the folder, or one of {', '.join(PUBLISHED)}")
    command.add_argument(
        "--from", dest="source", metavar="URL", help="address of a model.toml; files may lie beside it"
    )
    command.add_argument("--models-dir", type=Path, required=True, help="folder of models; made if need be")
    command.add_argument("--max-mb", type=int, default=4096, help="largest file whose card does not say its size")
    command.add_argument("--insecure-http", action="store_true", help="take plain http from other machines too")


def run(args: argparse.Namespace) -> int:
    """Run one of the commands; the exit code is 1 where a card or a file is not as it should be.

    Raises:
        ModelError: There are no models, or none of that name; or the card to be shown is not valid.
        SettingError: A flag is impossible.
        PullError: Files could not be fetched.
    """
    match args.action:
        case "pull":
            from inference_worker import pulling  # noqa: PLC0415 - only this command pays for HTTP and TLS

            return pulling.run(args)
        case "list":
            return list_models(args.models_dir)
        case "show":
            card = find_card(args.models_dir, args.name)
            _say(f"{pin(card)}\n\n{render_whole(card)}", end="")
            return 0
        case _:
            return verify_models(args.models_dir, args.name or list_names(args.models_dir))


def pin(card: ModelCard) -> str:
    """What a service's document says of a version that must be this model; JSON's quotes are YAML's too."""
    return f"model: {{name: {json.dumps(card.name)}, checksum: {json.dumps(card.checksum)}}}"


def render_whole(card: ModelCard) -> str:
    """The card; of an alias also the one that it names, since its files and facts are that one's."""
    if card.alias_of is None:
        return render_card(card)
    base = find_card(card.folder.parent, card.alias_of)
    return f"{render_card(card)}\n# {card.alias_of}, which it is another name of\n{render_card(base)}"


def list_models(folder: Path) -> int:
    """One line each; a card that is not valid is told of in its place.

    Raises:
        ModelError: There are none.
    """
    code = 0
    for name in list_names(folder):
        try:
            card = find_card(folder, name)
        except ModelError as exc:
            code = EXIT_FAILED
            _say(f"{name:16} {exc}")
            continue
        size = sum(file.size_bytes or 0 for file in card.files) / 1e6
        holds = f"alias of {card.alias_of}" if card.alias_of else ", ".join(file.name for file in card.files)
        text = f"{card.name:16} {card.version:16} {card.family.value:13} {card.backend.value:8} {holds}"
        _say(text if card.alias_of or not size else f"{text} ({size:.1f} MB)")
    return code


def verify_models(folder: Path, names: list[str]) -> int:
    """Hash all files of the models again; one line each."""
    code = 0
    for name in names:
        try:
            card = find_card(folder, name)
            verify(card)
            _say(f"{name:16} ok {card.checksum}")
        except ModelError as exc:
            code = EXIT_FAILED
            _say(f"{name:16} {exc}")
    return code


def _say(text: str, end: str = "\n") -> None:
    sys.stdout.write(text + end)
