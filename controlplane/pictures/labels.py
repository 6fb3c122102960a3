"""The label of a coloured picture: who coloured it, as XMP in the words of Dublin Core, Adobe and the IPTC.

`compositeWithTrainedAlgorithmicMedia` is the IPTC's word for a picture that was edited with a trained model: the photo
is real, its colours are the model's guess. `algorithmicallyEnhanced` would say that its content was left as it was.
"""

import dataclasses
from typing import Final

MAX_NAME_CHARS: Final = 200
SOURCE_TYPE: Final = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"

_PACKET: Final = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/"'
    ' xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:tiff="http://ns.adobe.com/tiff/1.0/"'
    ' xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/">'
    "<dc:description><rdf:Alt>"
    '<rdf:li xml:lang="x-default">{text}</rdf:li>'
    "</rdf:Alt></dc:description>"
    "<xmp:CreatorTool>{text}</xmp:CreatorTool>"
    "<Iptc4xmpExt:DigitalSourceType>{source}</Iptc4xmpExt:DigitalSourceType>"
    "{more}"
    "</rdf:Description></rdf:RDF></x:xmpmeta>"
    '<?xpacket end="r"?>'
)


@dataclasses.dataclass(frozen=True, slots=True)
class Label:
    """The model and the version that coloured a picture, as they call themselves; the version may be unknown: ""."""

    model: str
    version: str = ""

    @property
    def text(self) -> str:
        """Say it in one line."""
        model, version = _clean(self.model) or "unknown", _clean(self.version)
        return f"coloured by model {model}, version {version}" if version else f"coloured by model {model}"


def packet_of(label: Label, orientation: int) -> bytes:
    """Return the XMP packet of *label*, for a picture of this orientation; the same ones give the same bytes."""
    more = [
        _element("Iptc4xmpExt:AISystemUsed", _clean(label.model)),
        _element("Iptc4xmpExt:AISystemVersionUsed", _clean(label.version)),
        _element("tiff:Orientation", "" if orientation == 1 else str(orientation)),
    ]
    return _PACKET.format(text=_escape(label.text), source=SOURCE_TYPE, more="".join(more)).encode()


def _element(name: str, value: str) -> str:
    return f"<{name}>{_escape(value)}</{name}>" if value else ""


def _clean(name: str) -> str:
    """Bring it on one line that any program can show, and that none takes for markup."""
    printable = "".join(char if char.isprintable() and char not in "<>" else " " for char in name)
    return " ".join(printable.split())[:MAX_NAME_CHARS].strip()


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
