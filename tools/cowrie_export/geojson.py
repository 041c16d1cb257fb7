"""GeoJSON (RFC 7946): a point for each target."""

import json
from typing import Iterator

from .targets import Export, Target, utc


def feature(target: Target) -> dict:
    """Returns a Feature. Its geometry is null if the coordinates are unknown."""
    geometry = None
    if target.has_place:
        # The longitude comes first.
        geometry = {"type": "Point", "coordinates": [target.longitude, target.latitude]}
    return {
        "type": "Feature",
        "id": target.target,
        "geometry": geometry,
        "properties": {
            "target": target.target,
            "unit": target.unit,
            "sessions": target.sessions,
            "addresses": target.addresses,
            "reason": target.reason,
            "first_seen": utc(target.first_seen),
            "last_seen": utc(target.last_seen),
            "expires_at": utc(target.expires_at),
            "asn": target.asn,
            "organization": target.organization,
            "network_type": target.network_type,
            "country": target.country,
            "city": target.city,
            "accuracy_radius_km": target.accuracy_radius_km,
            "ip_types": target.ip_types,
        },
    }


def collection(export: Export) -> Iterator[str]:
    """Returns a FeatureCollection with one feature a line, in ASCII."""
    yield '{"type": "FeatureCollection", "features": ['
    separator = "\n"
    for target in export.targets:
        yield separator + json.dumps(feature(target), allow_nan=False)
        separator = ",\n"
    yield "\n]}\n"
