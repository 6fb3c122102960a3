"""How results are printed: for people, or for programs."""

import enum


class Format(enum.StrEnum):
    """How results are printed."""

    TABLE = "table"
    WIDE = "wide"
    """As a table, with all there is to show, however wide that gets."""
    JSON = "json"
    YAML = "yaml"


def for_programs(output: Format) -> bool:
    """Whether programs read the output."""
    return output in {Format.JSON, Format.YAML}
