"""A file for `nft -f` that fills two sets, in one transaction."""

import datetime
import ipaddress
import math
import sys
from typing import Dict, Iterator, List, Tuple, Union

from .targets import Export, ExportError, utc

Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]

#: nft accepts any number of elements in a command. Short commands keep its error messages short.
ELEMENTS_PER_COMMAND = 1000

#: Seconds of 365 days. nft refuses a file with a timeout of several years.
LONGEST_TIMEOUT = 365 * 24 * 60 * 60


def timeouts(export: Export) -> Dict[int, List[Tuple[Network, int]]]:
    """Returns prefixes that do not overlap and their timeouts in seconds, for each family. Expired targets are left out."""
    ends: Dict[Network, datetime.datetime] = {}
    for target in export.targets:
        network = target.network
        if network is None:
            raise ExportError("an nft set cannot contain networks by ASN; use --unit address or --unit prefix")
        if target.expires_at is not None and target.expires_at > export.now:
            ends[network] = max(target.expires_at, ends.get(network, target.expires_at))
    found: Dict[int, List[Tuple[Network, int]]] = {4: [], 6: []}
    for network in sorted(ends, key=lambda n: (n.version, int(n.network_address), n.prefixlen)):
        seconds = min(math.ceil((ends[network] - export.now).total_seconds()), LONGEST_TIMEOUT)
        family = found[network.version]
        # nft refuses overlapping elements. A prefix comes before everything that it contains.
        if family and network.subnet_of(family[-1][0]):
            family[-1] = (family[-1][0], max(family[-1][1], seconds))
        else:
            family.append((network, seconds))
    return found


def element(network: Network, seconds: int) -> str:
    """Returns an element of a set."""
    is_address = network.prefixlen == network.max_prefixlen
    return f"{network.network_address if is_address else network} timeout {seconds}s"


def sets(export: Export) -> Iterator[str]:
    """Returns the commands of the file."""
    found = timeouts(export)
    if export.targets and not any(found.values()):
        # An empty set is valid, so this is no failure.
        print(
            f"cowrie-export: the sets are empty, because all {len(export.targets)} targets had expired at {utc(export.now)}. "
            "For an old log, give a longer --lifetime or an earlier --now",
            file=sys.stderr,
        )
    table, name = export.nft_table, export.nft_set
    yield f"# {len(found[4])} IPv4 and {len(found[6])} IPv6 elements of cowrie-export. Load by: nft -f FILE\n"
    yield f"add table inet {table}\n"
    for family in (4, 6):
        yield f"add set inet {table} {name}{family} {{ type ipv{family}_addr; flags interval, timeout; }}\n"
        yield f"flush set inet {table} {name}{family}\n"
    for family in (4, 6):
        elements = [element(*entry) for entry in found[family]]
        for start in range(0, len(elements), ELEMENTS_PER_COMMAND):
            command = ",\n".join(elements[start : start + ELEMENTS_PER_COMMAND])
            yield f"add element inet {table} {name}{family} {{\n{command}\n}}\n"
