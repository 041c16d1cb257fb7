"""Lines (`plain`) and `csv`."""

import csv
import io
from typing import Iterable, Iterator

from .targets import Export, utc

COLUMNS = (
    "target",
    "unit",
    "sessions",
    "addresses",
    "reason",
    "first_seen",
    "last_seen",
    "expires_at",
    "asn",
    "organization",
    "network_type",
    "country",
    "city",
    "latitude",
    "longitude",
    "ip_types",
)

# A spreadsheet runs a cell that begins with one of these as a formula. The last four are the wide forms.
FORMULA = tuple("=+-@\uff1d\uff0b\uff0d\uff20")


def plain(export: Export) -> Iterator[str]:
    """Returns one target a line."""
    return (f"{target.target}\n" for target in export.targets)


def cell(value: object) -> object:
    """Returns a text so that no spreadsheet runs it as a formula. Numbers stay numbers."""
    if not isinstance(value, str):
        return value
    # An apostrophe is doubled, so that removing one apostrophe gives each text back.
    if value.lstrip().startswith(FORMULA) or value[:1] in ("\t", "\r", "\n", "'"):
        return "'" + value
    return value


def comma_separated(export: Export) -> Iterator[str]:
    """Returns a table with a header, in UTF-8, with the quotes of RFC 4180."""
    yield line(COLUMNS)
    for target in export.targets:
        row = {
            **{name: getattr(target, name) for name in COLUMNS},
            "first_seen": utc(target.first_seen),
            "last_seen": utc(target.last_seen),
            "expires_at": utc(target.expires_at),
            "ip_types": " ".join(target.ip_types),
        }
        yield line(cell(row[name]) for name in COLUMNS)


def line(cells: Iterable[object]) -> str:
    """Returns a row that ends with a line feed."""
    text = io.StringIO()
    # The writer quotes the characters of the terminator. So it must have both, although the line ends with one.
    csv.writer(text, lineterminator="\r\n").writerow(cells)
    return text.getvalue()[:-2] + "\n"
