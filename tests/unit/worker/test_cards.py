"""Cards: what is written is read again, what is wrong is refused in one line that names card, field and fix."""

import hashlib
import re
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_worker.cards import (
    Backend,
    Family,
    ModelCard,
    ModelFile,
    Source,
    parse_card,
    render_card,
    sum_files,
)
from inference_worker.errors import ModelError
from inference_worker.sizing import SizeRange

FOLDER: Final = Path("models/m1")
SUM: Final = hashlib.sha256(b"weights").hexdigest()
CARD: Final = f"""\
name = "m1"
version = "1.0"
family = "lab-colorizer"
backend = "onnx"
about = "A model."

[[files]]
name = "weights.onnx"
sha256 = "{SUM}"
bytes = 7
url = "https://models.example/weights.onnx"

[input]
px = 192
sizes = [460, 680]

[output]
head = "regression"

[weights]
licence = "Apache-2.0"
origin = "trained here"

[data]
licence = "CC0"
origin = "unknown"

[figures]
dE2000 = 10.5
"""


def refuse_base(name: str) -> ModelCard:
    raise ModelError(f"there is no {name}")


def parse(text: str) -> ModelCard:
    return parse_card(text, folder=FOLDER, find_base=refuse_base)


def test_every_field_is_read() -> None:
    assert parse(CARD) == ModelCard(
        name="m1",
        version="1.0",
        family=Family.LAB_COLORIZER,
        backend=Backend.ONNX,
        about="A model.",
        folder=FOLDER,
        files=(ModelFile(name="weights.onnx", sha256=SUM, size_bytes=7, url="https://models.example/weights.onnx"),),
        weights=Source(licence="Apache-2.0", origin="trained here"),
        data=Source(licence="CC0", origin="unknown"),
        input_px=192,
        sizes=SizeRange(460, 680),
        head="regression",
        figures={"dE2000": 10.5},
    )


def test_a_file_may_be_called_by_letters_of_any_script() -> None:
    assert (
        parse(CARD.replace('"weights.onnx"', '"DDColor人物黑白修复.json"')).path == FOLDER / "DDColor人物黑白修复.json"
    )


def test_one_file_is_its_own_checksum() -> None:
    assert parse(CARD).checksum == f"sha256:{SUM}"


def test_the_checksum_of_several_files_is_that_of_their_sorted_lines() -> None:
    files = [ModelFile(name=name, sha256=hashlib.sha256(name.encode()).hexdigest()) for name in ("b", "a", "B.c")]
    lines = "".join(f"{hashlib.sha256(name.encode()).hexdigest()}  {name}\n" for name in ("B.c", "a", "b"))
    assert sum_files(files) == sum_files(files[::-1]) == f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('name = "m1"', "", "name: missing; add it"),
        ('name = "m1"', 'name = "m2"', "name: 'm2' lies in a folder called 'm1'; give both one name"),
        ('name = "m1"', "name = 1", "name: 1 is no text; write it in quotation marks"),
        ('version = "1.0"', "version = 1.0", "version: 1.0 is no text"),
        ('version = "1.0"', 'version = "a b"', "version: 'a b' does not fit; write"),
        ('about = "A model."', 'about = "A\\nmodel."', "about: 'A\\nmodel.' is not one printable line"),
        ('about = "A model."', 'about = ""', "about: '' is not one printable line"),
        ('"lab-colorizer"', '"sculptor"', "family: 'sculptor' is unknown; choose one of lab-colorizer, rgb-to-rgb"),
        ('"onnx"', '"jax"', "backend: 'jax' is unknown; choose one of onnx, torch, comfyui"),
        ('"weights.onnx"', '"../weights.onnx"', "files[0].name: '../weights.onnx' does not fit; write"),
        ('"weights.onnx"', '"/etc/passwd"', "files[0].name: '/etc/passwd' does not fit"),
        ('"weights.onnx"', '".."', "files[0].name: '..' does not fit"),
        ('"weights.onnx"', '"a\\\\b"', "files[0].name: 'a\\\\b' does not fit"),
        ('"weights.onnx"', '"model.toml"', "files[0].name: 'model.toml' is kept for another use"),
        ('"weights.onnx"', '"weights.part"', "files[0].name: 'weights.part' is kept for another use"),
        (f'sha256 = "{SUM}"', "", "files[0].sha256: missing; add it"),
        (f'sha256 = "{SUM}"', 'sha256 = "abc"', "files[0].sha256: 'abc' does not fit; write [0-9a-f]{64}"),
        (SUM, SUM.upper(), "files[0].sha256: '"),
        ("bytes = 7", "bytes = 0", "files[0].bytes: 0 is impossible; write a whole number from 1 to"),
        ("bytes = 7", "bytes = true", "files[0].bytes: True is impossible"),
        ('"https://', '"file://', "files[0].url: 'file://models.example/weights.onnx' does not fit; write https?://"),
        ("[[files]]", "[files]", "files: {'name': 'weights.onnx', 'sha256': '"),
        ("px = 192", "px = 100", "input.px: 100 is no multiple of 32 in 32..1280"),
        ("px = 192", "px = 4096", "input.px: 4096 is impossible; write a whole number from 32 to 1280"),
        ("px = 192", 'px = "big"', "input.px: 'big' is impossible"),
        ("px = 192", "pix = 192", "input.px: missing; add it"),
        ("[460, 680]", "[460]", "input.sizes: [460] is impossible; write two whole numbers, such as [460, 680]"),
        ("[460, 680]", "[33, 63]", "input.sizes: 33..63 holds no multiple of 32"),
        ("sizes = [460, 680]", "square = true\nsizes = [96, 192]", "input.sizes: its file is for 192 only; leave"),
        ("sizes = [460, 680]", "square = 1", "input.square: 1 is impossible; write true or false"),
        ("sizes = [460, 680]", "darkest = 0", "input.darkest: a lab-colorizer is given CIE L of 0..100; leave it out"),
        ("[data]", "[date]", "data: missing; add it"),
        ('origin = "unknown"', "", "data.origin: missing; add it"),
        ('licence = "Apache-2.0"', 'license = "Apache-2.0"', "weights.licence: missing; add it"),
        ('head = "regression"', 'heads = "regression"', "output.heads: unknown field; did you mean head?"),
        ("[figures]", "[figuers]", "figuers: unknown field; did you mean figures?"),
        ("bytes = 7", "colour = 7", "files[0].colour: unknown field; leave it out; known are name, sha256, bytes"),
        ("dE2000 = 10.5", "dE2000 = nan", "figures.dE2000: nan is impossible; write a number, a text, true or false"),
        ("dE2000 = 10.5", "dE2000 = [1]", "figures.dE2000: [1] is impossible"),
        ("dE2000 = 10.5", f"dE2000 = 0x{'f' * 5000}", "figures.dE2000: a huge number is impossible"),
        ("dE2000 = 10.5", f"dE2000 = {'9' * 5000}", "no valid TOML: Exceeds the limit"),
        ("[input]", "[input", "no valid TOML: Expected ']' at the end of a table declaration"),
        ("px = 192", "px = ", "no valid TOML: Invalid value (at line 14, column 6); see https://toml.io"),
    ],
)
def test_what_is_wrong_is_named_with_card_field_and_fix(old: str, new: str, words: str) -> None:
    assert old in CARD
    with pytest.raises(ModelError) as caught:
        parse(CARD.replace(old, new))
    assert str(caught.value).startswith(f"models/m1/model.toml: {words}")
    assert "\n" not in str(caught.value)


def test_a_file_is_named_once() -> None:
    entry = CARD[CARD.index("[[files]]") : CARD.index("[input]")]
    with pytest.raises(ModelError, match="files: two have one name; name each file once"):
        parse(CARD.replace(entry, entry + entry))


def test_a_transformer_takes_any_shape() -> None:
    rgb = CARD.replace("lab-colorizer", "rgb-to-rgb")
    with pytest.raises(ModelError, match="input: an rgb-to-rgb model takes any shape up to px; leave sizes"):
        parse(rgb)
    plain = rgb.replace("sizes = [460, 680]", "darkest = 0")
    assert parse(plain).darkest == 0
    assert parse(plain.replace('"onnx"', '"torch"')).backend is Backend.TORCH
    with pytest.raises(ModelError, match="backend: comfyui colorizes only; choose onnx, or family lab-colorizer"):
        parse(plain.replace('"onnx"', '"comfyui"'))
    with pytest.raises(ModelError, match=r"input\.darkest: 1 is impossible; write a whole number from -1 to 0"):
        parse(plain.replace("darkest = 0", "darkest = 1"))


def test_a_file_for_one_size_is_square_and_onnx() -> None:
    square = CARD.replace("sizes = [460, 680]", "square = true")
    assert parse(square).is_fixed
    assert not parse(square.replace('"onnx"', '"torch"')).is_fixed
    assert not parse(CARD).is_fixed


ALIAS: Final = 'name = "m1"\nversion = "p"\nalias_of = "v1"\nabout = "The same."\n'


def parse_alias(text: str) -> ModelCard:
    base = parse_card(CARD.replace('"m1"', '"v1"'), folder=Path("models/v1"), find_base=refuse_base)
    return parse_card(text, folder=FOLDER, find_base={"v1": base}.__getitem__)


def test_an_alias_has_its_own_name_and_sizes_and_the_other_ones_files() -> None:
    card = parse_alias(ALIAS + "[input]\nsizes = [960, 1280]\n")
    assert (card.name, card.version, card.alias_of, card.sizes) == ("m1", "p", "v1", SizeRange(960, 1280))
    assert card.path == Path("models/v1/weights.onnx")
    assert card.checksum == f"sha256:{SUM}"
    assert parse_alias(render_card(card)) == card


def test_an_alias_says_nothing_of_files_and_names_a_model() -> None:
    with pytest.raises(ModelError, match=r"models/m1/model\.toml: backend: unknown field; leave it out; known are"):
        parse_alias(ALIAS + 'backend = "onnx"')
    with pytest.raises(ModelError, match=r"model\.toml: alias_of: no card of 'v1' to go by \(there is no v1\)"):
        parse(ALIAS)


WORDS: Final = st.text(st.characters(min_codepoint=32, exclude_categories=["C", "Z"]), min_size=1, max_size=30)
NAMES: Final = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,20}", fullmatch=True)
SOURCES: Final = st.builds(Source, licence=WORDS, origin=WORDS)
FILES: Final = st.builds(
    ModelFile,
    name=NAMES.filter(lambda name: name != "model.toml" and not name.endswith(".part")),
    sha256=st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
    size_bytes=st.none() | st.integers(1, 2**40),
    url=st.none() | st.just("https://models.example/a?b=c"),
)
FIGURES: Final = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    WORDS | st.booleans() | st.integers(-(2**62), 2**62) | st.floats(-1e18, 1e18),
    max_size=4,
)


@st.composite
def cards(draw: st.DrawFn) -> ModelCard:
    family = draw(st.sampled_from(Family))
    is_rgb = family is Family.RGB_TO_RGB
    backend = draw(st.sampled_from([Backend.ONNX, Backend.TORCH]))
    is_square = not is_rgb and draw(st.booleans())
    has_sizes = not is_rgb and not (is_square and backend is Backend.ONNX) and draw(st.booleans())
    return ModelCard(
        name=FOLDER.name,
        version=draw(NAMES),
        family=family,
        backend=backend,
        about=draw(WORDS),
        folder=FOLDER,
        files=tuple(draw(st.lists(FILES, min_size=1, max_size=3, unique_by=lambda file: file.name))),
        weights=draw(SOURCES),
        data=draw(SOURCES),
        input_px=32 * draw(st.integers(1, 40)),
        sizes=SizeRange(460, 680) if has_sizes else None,
        darkest=draw(st.sampled_from([-1, 0])) if is_rgb else -1,
        is_square=is_square,
        head=draw(WORDS),
        figures=draw(FIGURES),
    )


@given(cards())
def test_what_is_written_is_read_again(card: ModelCard) -> None:
    assert parse(render_card(card)) == card


@given(cards(), st.data())
def test_no_field_takes_a_date_or_another_name(card: ModelCard, data: st.DataObject) -> None:
    lines = render_card(card).partition("\n[figures]")[0].splitlines()
    place = data.draw(st.sampled_from([place for place, line in enumerate(lines) if " = " in line]))
    key, _, value = lines[place].partition(" = ")
    lines[place] = data.draw(st.sampled_from([f"{key} = 1979-05-27", f"{key}x = {value}", f"{key} = {{}}"]))
    with pytest.raises(ModelError, match=rf"^models/m1/model\.toml: \S*{re.escape(key)}") as caught:
        parse("\n".join(lines))
    assert "\n" not in str(caught.value)


@given(st.text() | st.text(st.sampled_from('a.=[]"{},\n#1')))
def test_any_text_is_a_card_or_refused(text: str) -> None:
    with pytest.raises(ModelError, match=r"^models/m1/model\.toml: "):
        parse(text)
