"""The command line."""

import argparse
import importlib
import re
import signal
import sys
from typing import List, Optional

from . import database, output
from .targets import ExportError

#: Module and function of each format.
FORMATS = {
    "stix": ("stix", "bundle"),
    "misp": ("misp", "event"),
    "geojson": ("geojson", "collection"),
    "nft": ("nft", "sets"),
    "csv": ("text", "comma_separated"),
    "plain": ("text", "plain"),
}

TLP = ("clear", "green", "amber", "amber+strict", "red")

HELP = """\
Writes addresses from which sessions of honeypots came, for other tools.

usage: cowrie-export --format FORMAT [--output FILE] [--dsn CONNECTION] [--table TABLE] [--since TIME]
                     [--min-sessions NUMBER] [--unit address|prefix|asn] [--campaign CONDITION] [OPTION]...

  --format FORMAT      stix: bundle of STIX 2.1; misp: event of MISP in JSON; geojson: points on a map;
                       nft: file for `nft -f` that fills two sets; csv: table; plain: one target a line
  --output FILE        file to replace when the export is complete (default: standard output)
  --dsn CONNECTION     connection string: 'host=... dbname=...' or postgresql://... Missing parts come from
                       PGHOST, PGPORT, PGUSER, PGDATABASE and the other variables of libpq
  --table TABLE        attached table of sessions (default: sessions)
  --since TIME         only sessions since this time, such as 2024-05-01, or since an interval before the newest
                       session, such as '7 days' (default: all sessions)
  --min-sessions NUMBER  targets with fewer sessions are left out (default: 1)
  --unit UNIT          address, or prefix or asn to replace addresses by dense prefixes or networks
                       (default: address)
  --min-density SHARE  share of a prefix from which sessions must have come, greater than 0 (default: 0.25). With
                       0.01, three addresses put a /24 on the list. A very small share blocks whole providers
  --campaign CONDITION  only sessions that meet this SQL condition, in which s is the table, such as
                       "s.id IN (SELECT session FROM auth WHERE password = 'x')"; with the unit address
  --lifetime INTERVAL  time from the last session until a target expires (default: 30 days)
  --stored-time-zone ZONE  time zone of a time column without one (default: UTC)

  --tlp LEVEL          who may read a STIX or MISP export: clear, green, amber, amber+strict or red
                       (default: amber)
  --producer NAME      your organisation in STIX and MISP (default: cowrie_enrich). It is part of all identifiers
  --title TEXT         title of the MISP event, and name of the campaign in STIX
  --nft-table NAME     table of the family inet that has the sets (default: honeypot)
  --nft-set NAME       beginning of the names of the sets, before 4 and 6 (default: honeypot)
  --now TIME           time from which the timeouts of sets count, and at which targets have expired (default: the
                       beginning of the current hour)

The role needs the rights of an analyst. The export never contains bogons, benign scanners or exceptions of
blocklist(). The formats stix and misp need the Python libraries of these names.
"""


class Parser(argparse.ArgumentParser):
    """Prints the help above instead of a generated one."""

    def format_help(self) -> str:
        return HELP

    def error(self, message: str):
        self.exit(2, f"cowrie-export: {message}; see --help\n")


def name_of_nft(text: str) -> str:
    """Returns a name that nft accepts without quotes."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,29}", text):
        raise argparse.ArgumentTypeError("must be a letter and at most 29 letters, digits or _")
    return text


def natural(text: str) -> int:
    """Returns a number that blocklist() accepts as the least number of sessions."""
    if not re.fullmatch("[0-9]{1,9}", text) or int(text) == 0:
        raise argparse.ArgumentTypeError("must be a number of at least 1")
    return int(text)


def parse(words: Optional[List[str]]) -> argparse.Namespace:
    """Reads the arguments, and refuses those that have no meaning together."""
    parser = Parser(prog="cowrie-export", allow_abbrev=False)
    parser.add_argument("--format", choices=FORMATS, required=True)
    parser.add_argument("--output")
    parser.add_argument("--dsn", default="")
    parser.add_argument("--table", default="sessions")
    parser.add_argument("--since")
    parser.add_argument("--min-sessions", type=natural, default=1)
    parser.add_argument("--unit", choices=("address", "prefix", "asn"), default="address")
    parser.add_argument("--min-density", type=float, default=0.25)
    parser.add_argument("--campaign")
    parser.add_argument("--lifetime", default="30 days")
    parser.add_argument("--stored-time-zone", default="UTC")
    parser.add_argument("--tlp", choices=TLP, default="amber")
    parser.add_argument("--producer", default="cowrie_enrich")
    parser.add_argument("--title")
    parser.add_argument("--nft-table", type=name_of_nft, default="honeypot")
    parser.add_argument("--nft-set", type=name_of_nft, default="honeypot")
    parser.add_argument("--now")
    arguments = parser.parse_args(words)
    if arguments.campaign is not None and arguments.unit != "address":
        parser.error("--campaign goes with --unit address")
    if arguments.format == "nft" and arguments.unit == "asn":
        parser.error("an nft set cannot contain networks by ASN; use --unit address or --unit prefix")
    if not arguments.producer.strip():
        parser.error("--producer must not be empty")
    if arguments.title is None:
        arguments.title = "Honeypot sessions of a campaign" if arguments.campaign else "Honeypot sessions"
    return arguments


def main(words: Optional[List[str]] = None) -> int:
    """Runs the program. Returns 0 if the export is complete, 1 after a failure. Wrong arguments end it with 2."""
    arguments = parse(words)
    # An exception removes the unfinished file. The default action of the signal would leave it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        module, function = FORMATS[arguments.format]
        writer = getattr(importlib.import_module(f"{__package__}.{module}"), function)
        export = database.read(arguments)
        output.write(writer(export), arguments.output)
    except (ExportError, OSError) as error:
        try:
            print(f"cowrie-export: {error}", file=sys.stderr)
        except OSError:
            pass
        return 1
    except KeyboardInterrupt:
        return 1
    return 0
