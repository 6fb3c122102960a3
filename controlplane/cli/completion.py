"""Shell completion: `hueshift completion SHELL` prints a script, and that asks a hidden command what may come next.

Names of services, versions and Envoys are asked of the control plane, for a second at most. Whatever goes wrong there
completes to nothing: nobody wants an error message in the middle of a line.
"""

import enum
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Final, TypeAlias

import typer

from controlplane.cli.options import surroundings_of
from controlplane.cli.surroundings import Surroundings
from controlplane.codes import CATALOGUE

WITHIN_S: Final = 1.0
"""How long the control plane is waited for."""
ASK: Final = "__complete"

Candidate: TypeAlias = tuple[str, str]
"""A word that may come next, and what it is."""


class Shell(enum.StrEnum):
    """Whose script is printed."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


class Form(enum.StrEnum):
    """How candidates are printed: one a line, as words, or with what they are behind a colon or a tabulator."""

    WORDS = "words"
    COLON = "colon"
    TAB = "tab"


SCRIPTS: Final[Mapping[Shell, str]] = {
    Shell.BASH: """\
_hueshift_complete() {
    local IFS=$'\\n'
    COMPREPLY=($(hueshift __complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o default -F _hueshift_complete hueshift
""",
    Shell.ZSH: """\
#compdef hueshift
_hueshift() {
    local -a found
    found=("${(@f)$(hueshift __complete --form colon -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    if [[ -n "${found[1]}" ]]; then
        _describe hueshift found
    else
        _files
    fi
}
compdef _hueshift hueshift
""",
    Shell.FISH: """\
function __hueshift_complete
    set -l given (commandline -opc) (commandline -ct)
    hueshift __complete --form tab -- $given[2..-1] 2>/dev/null
end
complete -c hueshift -a '(__hueshift_complete)'
""",
}

WHERE: Final[Mapping[Shell, str]] = {
    Shell.BASH: 'eval "$(hueshift completion bash)"   # in ~/.bashrc',
    Shell.ZSH: 'eval "$(hueshift completion zsh)"    # in ~/.zshrc, after compinit',
    Shell.FISH: "hueshift completion fish | source   # in ~/.config/fish/config.fish",
}


def completion(
    shell: Annotated[Shell, typer.Argument(help="Which shell it is for.", show_default=False)],
) -> None:
    """Print a script that completes commands, options, and names of services, versions and Envoys."""
    print(SCRIPTS[shell], end="")
    print(f"# {WHERE[shell]}")


def ask(
    context: typer.Context,
    words: Annotated[list[str] | None, typer.Argument(show_default=False)] = None,
    form: Annotated[Form, typer.Option("--form")] = Form.WORDS,
) -> None:
    """Print what may come next after these words, of which the last is not finished."""
    root = context.find_root().command
    for value, about in candidates(root, words or [""], surroundings_of(context)):
        shown = " ".join(about.split())
        match form:
            case Form.WORDS:
                print(value)
            case Form.COLON:
                print(f"{re.sub(':', chr(92) + ':', value)}:{shown}")
            case Form.TAB:
                print(f"{value}\t{shown}")


def candidates(root: Any, words: Sequence[str], surroundings: Surroundings) -> list[Candidate]:
    """Return what may come next on a command line of which the last word is not finished."""
    *before, last = words
    path, arguments, pending = _walk(root, before)
    command = path[-1]
    if pending is None and last.startswith("--") and "=" in last:
        option, _, value = last.partition("=")
        found = _option(command, option)
        values = _values(found, value, path, arguments, surroundings) if found is not None else []
        return [(f"{option}={each}", about) for each, about in values]
    if pending is not None:
        return _values(pending, last, path, arguments, surroundings)
    if last.startswith("-"):
        return [pair for pair in _options(command) if pair[0].startswith(last)]
    below = [pair for pair in _subcommands(command) if pair[0].startswith(last)]
    if below or _is_group(command):
        return below
    places = [each for each in command.params if each.param_type_name == "argument"]
    if not places or (len(arguments) >= len(places) and places[-1].nargs == 1):
        return []
    place = places[min(len(arguments), len(places) - 1)]
    return _values(place, last, path, arguments, surroundings)


def _walk(root: Any, words: Iterable[str]) -> tuple[list[Any], list[str], Any]:
    """Return the commands that *words* lead to, the arguments of the last one, and the option that wants a value."""
    path, arguments, pending = [root], list[str](), None
    for word in words:
        if pending is not None:
            pending = None
        elif word.startswith("-"):
            option = None if "=" in word else _option(path[-1], word)
            pending = option if option is not None and not option.is_flag else None
        elif _is_group(path[-1]) and word in path[-1].commands:
            path.append(path[-1].commands[word])
            arguments = []
        else:
            arguments.append(word)
    return path, arguments, pending


def _is_group(command: Any) -> bool:
    return hasattr(command, "commands")


def _option(command: Any, name: str) -> Any:
    return next((each for each in command.params if name in (*each.opts, *each.secondary_opts)), None)


def _options(command: Any) -> Iterator[Candidate]:
    for each in command.params:
        if each.param_type_name == "option" and not each.hidden:
            yield from ((name, each.help or "") for name in each.opts if name.startswith("--"))
    yield "--help", "Show this message and exit."


def _subcommands(command: Any) -> Iterator[Candidate]:
    if _is_group(command):
        for name, each in command.commands.items():
            if not each.hidden:
                yield name, each.get_short_help_str(80)


def _values(
    param: Any, last: str, path: Sequence[Any], arguments: Sequence[str], surroundings: Surroundings
) -> list[Candidate]:
    kind = getattr(getattr(param, "type_descriptor", None), "annotation", None)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        found: list[Candidate] = [(str(each.value), "") for each in kind]
    else:
        of_top_level = len(path) == 2
        find = _FINDERS.get(param.name if of_top_level or param.name == "service" else "")
        found = [] if find is None else _quietly(find, surroundings, arguments)
    return [pair for pair in found if pair[0].startswith(last)]


def _quietly(
    find: Callable[[Surroundings, Sequence[str]], list[Candidate]], surroundings: Surroundings, arguments: Sequence[str]
) -> list[Candidate]:
    try:
        return find(surroundings, arguments)
    except Exception:  # noqa: BLE001 - see the module's docstring
        return []


def _services(surroundings: Surroundings, _: Sequence[str]) -> list[Candidate]:
    from controlplane.api.answers import SummaryView  # noqa: PLC0415 - see main

    with surroundings.client(quiet=True, timeout_s=WITHIN_S) as client:
        found = client.get_all(SummaryView, "services")
    return [(each.name, each.rollout.phase if each.rollout else "") for each in found]


def _versions(surroundings: Surroundings, arguments: Sequence[str]) -> list[Candidate]:
    from controlplane.api.answers import ServiceView  # noqa: PLC0415

    if not arguments:
        return []
    with surroundings.client(quiet=True, timeout_s=WITHIN_S) as client:
        found = client.get(ServiceView, "services", arguments[0])
    shares = {share.version: share.weight for share in found.split}
    return [(each.name, shares.get(each.name, "")) for each in found.document.versions]


def _nodes(surroundings: Surroundings, _: Sequence[str]) -> list[Candidate]:
    from controlplane.api.fleet_answers import ProxyView  # noqa: PLC0415

    with surroundings.client(quiet=True, timeout_s=WITHIN_S) as client:
        found = client.get_all(ProxyView, "proxies")
    return [(each.node, "" if each.connected else "not connected") for each in found]


def _codes(_: Surroundings, __: Sequence[str]) -> list[Candidate]:
    return [(code.id, code.title) for code in CATALOGUE.values()]


_FINDERS: Final[Mapping[str, Callable[[Surroundings, Sequence[str]], list[Candidate]]]] = {
    "name": _services,
    "service": _services,
    "to": _versions,
    "replaces": _versions,
    "node": _nodes,
    "code": _codes,
}
"""Who knows the values of an argument or option, by its name."""


def register(app: typer.Typer) -> None:
    """Add these commands to *app*."""
    app.command()(completion)
    app.command(ASK, hidden=True)(ask)
