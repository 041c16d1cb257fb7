"""The data that each format receives."""

import dataclasses
import datetime
import ipaddress
import re
import uuid
from typing import List, Optional, Union

#: Namespace of every identifier of this program. The identifiers in exported files are UUIDs of version 5 (RFC 9562) below
#: this namespace, so that two exports have the same identifiers. docs/export.md names it. It must never change.
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://cowrie-enrich.invalid/cowrie-export")

#: Codes that stand for an unknown or no single country.
NO_COUNTRY = frozenset(("XX", "ZZ", "EU", "AP"))


class ExportError(Exception):
    """A failure whose text the user sees."""


@dataclasses.dataclass(frozen=True)
class Target:
    """An address, a prefix or a network from which sessions came."""

    target: str
    unit: str
    sessions: int
    addresses: int
    reason: str
    #: Times of the first and last session of the export.
    first_seen: Optional[datetime.datetime]
    last_seen: Optional[datetime.datetime]
    expires_at: Optional[datetime.datetime]
    #: Time of the first session that the inventories know, so it does not depend on the arguments.
    known_since: Optional[datetime.datetime]
    asn: Optional[int]
    organization: Optional[str]
    registry: Optional[str]
    network_type: Optional[str]
    country: Optional[str]
    city: Optional[str]
    latitude: Optional[float]
    longitude: Optional[float]
    accuracy_radius_km: Optional[int]
    ip_types: List[str]

    @property
    def network(self) -> Union[ipaddress.IPv4Network, ipaddress.IPv6Network, None]:
        """Returns the prefix of the target, or None if the target is a network by its ASN."""
        return None if self.unit == "asn" else ipaddress.ip_network(self.target)

    @property
    def iso_country(self) -> Optional[str]:
        """Returns the country if it is the code of one country."""
        code = self.country
        return code if code and re.fullmatch("[A-Z]{2}", code) and code not in NO_COUNTRY else None

    @property
    def has_place(self) -> bool:
        """Returns whether the coordinates are valid."""
        return (
            self.latitude is not None
            and self.longitude is not None
            and -90 <= self.latitude <= 90
            and -180 <= self.longitude <= 180
        )

    @property
    def origin(self) -> str:
        """Returns network, place and types as one line. It does not depend on the arguments."""
        network = None
        if self.asn is not None:
            network = f"AS{self.asn} {self.organization}" if self.organization else f"AS{self.asn}"
        place = ", ".join(part for part in (self.city, self.iso_country) if part)
        return "; ".join(part for part in (network, place, ", ".join(self.ip_types)) if part)

    @property
    def notes(self) -> str:
        """Returns the reason and the origin as one line."""
        return "; ".join(part for part in (self.reason, self.origin) if part)


@dataclasses.dataclass(frozen=True)
class Export:
    """The targets, and what is common to all of them."""

    targets: List[Target]
    #: Schema and name of the table of sessions.
    table: str
    campaign: Optional[str]
    #: Time from which the timeouts of a set count. All other times are from the data.
    now: datetime.datetime
    producer: str
    title: str
    tlp: str
    nft_table: str
    nft_set: str

    def identifier(self, kind: str, *parts: object) -> uuid.UUID:
        """Returns the identifier of an object of this producer."""
        # A separator that no part contains keeps different parts from giving the same name.
        return uuid.uuid5(NAMESPACE, "\0".join(["cowrie-export", self.producer, kind, *map(str, parts)]))


def utc(time: Optional[datetime.datetime]) -> Optional[str]:
    """Returns a time in UTC as ISO 8601 with a `Z`. Fractions of a second appear if there are any."""
    if time is None:
        return None
    return time.astimezone(datetime.timezone.utc).isoformat().replace("+00:00", "Z")
