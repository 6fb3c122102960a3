"""A coloured picture says in the words of the standards who coloured it, where any reader finds it."""

import io
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from controlplane.pictures.inspection import inspect, label, prepare, strip
from controlplane.pictures.labels import SOURCE_TYPE, Label
from tests.small_pictures import make_png, pixels_of
from tests.unit.pictures.gallery import files, pixels

LABEL = Label("ddcolor-imagenet", "v42")
TEXT = "coloured by model ddcolor-imagenet, version v42"
NAMES = {
    "dc": "http://purl.org/dc/elements/1.1/",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "ext": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
}
LABELLED = [name for name in files() if not name.startswith("bmp")]


def read(content: bytes) -> dict[str, str | None]:
    """Read a label as any program would: the packet where the format has its place, as XML."""
    with Image.open(io.BytesIO(content)) as image:
        image.load()
        packet = image.info["xmp"]
    root = ET.fromstring(packet)  # noqa: S314 - written by us
    paths = {
        "description": ".//dc:description/rdf:Alt/rdf:li",
        "tool": ".//xmp:CreatorTool",
        "source": ".//ext:DigitalSourceType",
        "system": ".//ext:AISystemUsed",
        "version": ".//ext:AISystemVersionUsed",
    }
    return {name: root.findtext(path, namespaces=NAMES) for name, path in paths.items()}


@pytest.mark.parametrize("is_stripped", [False, True])
@pytest.mark.parametrize("name", LABELLED)
def test_a_label_is_read_back_and_pixels_are_the_same(name: str, *, is_stripped: bool) -> None:
    content = files()[name]
    _, labelled = prepare(content, is_stripped=is_stripped, words=LABEL)
    assert read(labelled) == {
        "description": TEXT,
        "tool": TEXT,
        "source": SOURCE_TYPE,
        "system": "ddcolor-imagenet",
        "version": "v42",
    }
    assert pixels(labelled).tobytes() == pixels(content).tobytes(), "upright as before"
    assert inspect(labelled) == inspect(content)


@pytest.mark.parametrize("name", LABELLED)
def test_a_second_label_replaces_the_first(name: str) -> None:
    once = label(files()[name], LABEL)
    other = Label("ddcolor-artistic", "v43")
    assert label(once, LABEL) == once
    assert label(once, other) == label(files()[name], other)
    assert b"v42" not in label(once, other)


@pytest.mark.parametrize("name", files())
def test_a_label_is_stripped_like_any_metadata(name: str) -> None:
    assert strip(label(files()[name], LABEL)) == strip(files()[name])


def test_a_png_says_it_as_text_too() -> None:
    with Image.open(io.BytesIO(label(make_png(b"x"), LABEL))) as image:
        assert image.info["Description"] == TEXT
    assert pixels_of(label(make_png(b"x"), LABEL)) == pixels_of(make_png(b"x"))


def test_a_bmp_has_no_place_for_a_label() -> None:
    assert label(files()["bmp"], LABEL) == strip(files()["bmp"])


def test_a_version_that_nobody_knows_is_not_made_up() -> None:
    assert Label("m").text == "coloured by model m"
    found = read(label(make_png(b"x"), Label("m")))
    assert (found["tool"], found["version"]) == ("coloured by model m", None)


@given(st.text(max_size=400), st.text(max_size=400))
def test_any_name_gives_one_clean_line(model: str, version: str) -> None:
    found = read(label(make_png(b"x"), Label(model, version)))
    text = found["tool"] or ""
    assert text == Label(model, version).text
    assert text.isprintable()
    assert len(text) <= 450


def test_names_cannot_write_markup() -> None:
    labelled = label(make_png(b"x"), Label("</xmp:CreatorTool><script>alert(1)</script>", "&amp;\n<?php"))
    assert read(labelled)["tool"] == "coloured by model /xmp:CreatorTool script alert(1) /script, version &amp; ?php"
    assert inspect(labelled) == inspect(make_png(b"x"))
