"""A bundle of STIX 2.1, by OASIS's library stix2."""

import datetime
import hashlib
from typing import Dict, Iterator

from .targets import Export, ExportError, Target

try:
    import stix2
    import stix2.v21 as stix
except ImportError as error:
    raise ExportError(f"the format stix needs the Python library stix2: pip install stix2==3.0.2 ({error})") from error

#: Creation time of objects that are not about sessions, such as a location. The clock would make two exports differ.
CONSTANT_TIME = datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone.utc)

#: STIX limits counts to nine digits.
MOST = 999_999_999

#: OASIS's extension for TLP 2.0, for the one level that STIX 2.1 does not define itself.
TLP_2 = "extension-definition--60a3c5c5-0d10-413e-aab3-9e08dde9e88d"
AMBER_STRICT = "marking-definition--939a9414-2ddd-4d32-a0cd-375ea402b003"


def marking(level: str):
    """Returns the marking of a TLP level. OASIS defines the identifiers, so receivers recognise the level."""
    if level == "amber+strict":
        return stix.MarkingDefinition(
            id=AMBER_STRICT,
            created="2022-10-01T00:00:00.000Z",
            name="TLP:AMBER+STRICT",
            extensions={TLP_2: {"extension_type": "property-extension", "tlp_2_0": "amber+strict"}},
            allow_custom=True,
        )
    # CLEAR is the new name of WHITE.
    return {"clear": stix2.TLP_WHITE, "green": stix2.TLP_GREEN, "amber": stix2.TLP_AMBER, "red": stix2.TLP_RED}[level]


class Bundle:
    """Writes the objects one by one, because a bundle of a large list would not fit into memory."""

    def __init__(self, export: Export):
        self.export = export
        self.marking = marking(export.tlp)
        self.identity = stix.Identity(
            id=f"identity--{export.identifier('identity')}",
            created=CONSTANT_TIME,
            modified=CONSTANT_TIME,
            name=export.producer,
            identity_class="organization",
            object_marking_refs=[self.marking.id],
        )
        #: Networks and locations by their values. Many targets share one, and the library takes long to check an object.
        self.shared: Dict[tuple, object] = {}
        #: Identifiers of the networks and locations that were written.
        self.written: Dict[str, None] = {}
        #: What this export counts. A sighting of another export is another object.
        self.scope = (export.table, "" if export.campaign is None else export.campaign)

    def common(self, kind: str, created: datetime.datetime, modified: datetime.datetime, *parts: object) -> dict:
        """Returns the properties that all objects of this producer have."""
        return {
            "id": f"{kind}--{self.export.identifier(kind, *parts)}",
            "created": created,
            "modified": modified,
            "created_by_ref": self.identity.id,
            "object_marking_refs": [self.marking.id],
        }

    def objects(self) -> Iterator[object]:
        """Returns all objects, in the order of the targets."""
        yield self.marking
        yield self.identity
        campaign = None
        if self.export.campaign is not None:
            campaign = self.campaign()
            yield campaign
        for target in self.export.targets:
            yield from self.about(target, campaign)

    def campaign(self):
        """Returns the campaign. The SQL condition is not exported, because it may contain secrets."""
        seen = [t for target in self.export.targets for t in (target.first_seen, target.last_seen) if t is not None]
        times = {"first_seen": min(seen), "last_seen": max(seen)} if seen else {}
        common = self.common("campaign", CONSTANT_TIME, max(seen, default=CONSTANT_TIME), *self.scope)
        common["created"] = min(CONSTANT_TIME, common["modified"])
        return stix.Campaign(**common, name=self.export.title, **times)

    def about(self, target: Target, campaign) -> Iterator[object]:
        """Returns the objects of a target."""
        known_since = target.known_since or CONSTANT_TIME
        first_seen = target.first_seen or known_since
        last_seen = target.last_seen or first_seen
        network = self.network(target)
        yield from self.once(network)
        observable = network
        if target.unit != "asn":
            observable = self.address(target, network)
            yield observable
        indicator = self.indicator(target, known_since, last_seen)
        yield indicator
        # The count belongs to the time between the two sessions, so both are part of the identifier or of the version.
        version = (first_seen, last_seen, *self.scope, target.target, first_seen.isoformat())
        observed = stix.ObservedData(
            **self.common("observed-data", *version),
            first_observed=first_seen,
            last_observed=last_seen,
            number_observed=min(target.sessions, MOST),
            object_refs=[observable.id],
        )
        yield observed
        yield stix.Sighting(
            **self.common("sighting", *version),
            description=target.reason,
            first_seen=first_seen,
            last_seen=last_seen,
            count=min(target.sessions, MOST),
            sighting_of_ref=indicator.id,
            observed_data_refs=[observed.id],
            where_sighted_refs=[self.identity.id],
        )
        yield self.relationship(indicator, "based-on", observed, first_seen, last_seen)
        location = self.location(target)
        if location is not None:
            yield from self.once(location)
            yield self.relationship(observable, "located-at", location, known_since, last_seen)
        if campaign is not None:
            yield self.relationship(indicator, "indicates", campaign, known_since, last_seen)

    def once(self, thing) -> Iterator[object]:
        """Returns a network or location when it is named for the first time."""
        if thing is not None and thing.id not in self.written:
            self.written[thing.id] = None
            yield thing

    def network(self, target: Target):
        """Returns the network of a target."""
        if target.asn is None:
            return None
        facts: Dict[str, object] = {"number": target.asn}
        if target.organization:
            facts["name"] = target.organization
        if target.registry:
            facts["rir"] = target.registry
        key = ("network", *facts.items())
        if key not in self.shared:
            self.shared[key] = stix.AutonomousSystem(**facts, object_marking_refs=[self.marking.id])
        return self.shared[key]

    def address(self, target: Target, network):
        """Returns the address or prefix. Its identifier depends on the value alone, as the specification says."""
        kind = stix.IPv4Address if target.network.version == 4 else stix.IPv6Address
        belongs = {} if network is None else {"belongs_to_refs": [network.id]}
        return kind(value=target.target, **belongs, object_marking_refs=[self.marking.id])

    def indicator(self, target: Target, known_since: datetime.datetime, last_seen: datetime.datetime):
        """Returns the indicator. Its pattern contains nothing but an address, a prefix or a number."""
        if target.unit == "asn":
            pattern = f"[autonomous-system:number = {target.asn}]"
        else:
            kind = f"ipv{target.network.version}-addr"
            comparison = "ISSUBSET" if "/" in target.target else "="
            pattern = f"[{kind}:value {comparison} '{target.target}']"
        end = max(target.expires_at or last_seen, known_since + datetime.timedelta(seconds=1))
        return stix.Indicator(
            **self.common("indicator", known_since, last_seen, target.target),
            name=f"Honeypot sessions from {target.target}",
            description=f"Sessions of a honeypot came from {target.target}. {target.origin}".rstrip(),
            indicator_types=["malicious-activity"],
            pattern=pattern,
            pattern_type="stix",
            valid_from=known_since,
            valid_until=end,
            **({"labels": [kind.lower() for kind in target.ip_types]} if target.ip_types else {}),
        )

    def location(self, target: Target):
        """Returns the location of a target, or None if neither its country nor its coordinates are known."""
        place: Dict[str, object] = {}
        if target.iso_country:
            place["country"] = target.iso_country
        if target.has_place:
            place["latitude"], place["longitude"] = target.latitude, target.longitude
            if target.accuracy_radius_km:
                place["precision"] = float(1000 * target.accuracy_radius_km)
        if not place:
            return None
        if target.city:
            place["city"] = target.city
        key = ("location", *place.items())
        if key not in self.shared:
            common = self.common("location", CONSTANT_TIME, CONSTANT_TIME, *(part for item in key[1:] for part in item))
            self.shared[key] = stix.Location(**common, **place)
        return self.shared[key]

    def relationship(self, source, kind: str, goal, created: datetime.datetime, modified: datetime.datetime):
        """Returns a relationship."""
        return stix.Relationship(
            **self.common("relationship", created, modified, source.id, kind, goal.id),
            relationship_type=kind,
            source_ref=source.id,
            target_ref=goal.id,
        )


def bundle(export: Export) -> Iterator[str]:
    """Returns the bundle with one object a line, in ASCII."""
    writer = Bundle(export)
    contents = hashlib.sha256(repr(export.targets).encode()).hexdigest()
    name = export.identifier("bundle", *writer.scope, export.tlp, export.title, contents)
    yield f'{{"type": "bundle", "id": "bundle--{name}", "objects": ['
    separator = "\n"
    for thing in writer.objects():
        yield separator + thing.serialize()
        separator = ",\n"
    yield "\n]}\n"
