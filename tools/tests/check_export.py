"""Reads a file of cowrie-export with the libraries of its format, and prints the facts that the test compares as JSON.

usage: check_export.py FORMAT FILE
"""

import csv
import json
import sys


def stix(path):
    """The bundle is valid for OASIS's library and its validator."""
    import stix2
    from stix2validator import ValidationOptions, validate_file

    with open(path, encoding="utf-8") as file:
        text = file.read()
    bundle = stix2.parse(text, version="2.1")
    # Identifiers of version 5 are what makes them stable. The validator would prefer random ones.
    report = validate_file(path, ValidationOptions(version="2.1", disabled="103"))
    errors = [str(error) for result in report.object_results for error in (result.errors or [])]
    assert report.is_valid and not errors, errors
    objects = json.loads(text)["objects"]
    known = {thing["id"] for thing in objects}
    assert len(known) == len(objects), "an identifier is there twice"
    for thing in objects:
        for name, value in thing.items():
            if name.endswith("_ref") or name.endswith("_refs"):
                for reference in value if isinstance(value, list) else [value]:
                    assert reference in known, f"{thing['id']}: {reference} of {name} is missing"
    # Every pattern is parsed.
    from stix2patterns.validator import run_validator

    of = {}
    for thing in bundle.objects if hasattr(bundle, "objects") else []:
        of.setdefault(thing.type, []).append(thing)
    for indicator in of.get("indicator", []):
        assert run_validator(indicator.pattern, stix_version="2.1") == [], indicator.pattern
    return {
        "types": {name: len(things) for name, things in sorted(of.items())},
        "patterns": [indicator.pattern for indicator in of.get("indicator", [])],
        "counts": [sighting["count"] for sighting in of.get("sighting", [])],
        "names": sorted({network.name for network in of.get("autonomous-system", []) if "name" in network}),
        "labels": [indicator.get("labels", []) for indicator in of.get("indicator", [])],
        "markings": [marking.name for marking in of["marking-definition"]],
        "ids": sorted(known),
    }


def misp(path):
    """The event is loaded by MISP's library."""
    from pymisp import MISPEvent

    event = MISPEvent()
    event.load_file(path)
    return {
        "uuid": event.uuid,
        "info": event.info,
        "date": str(event.date),
        "tags": [tag.name for tag in event.tags],
        "times": [int(event.timestamp.timestamp()) if hasattr(event, "timestamp") else None]
        + [int(a.timestamp.timestamp()) if hasattr(a, "timestamp") else None for a in event.attributes],
        "attributes": [
            [a.type, a.value, a.to_ids, a.first_seen.isoformat(), a.last_seen.isoformat()] for a in event.attributes
        ],
        "comments": [a.comment for a in event.attributes],
        "kinds": [[tag.name for tag in a.tags] for a in event.attributes],
        "uuids": sorted(a.uuid for a in event.attributes),
    }


def geojson(path):
    """The file is RFC 7946: the longitude comes first."""
    with open(path, encoding="utf-8") as file:
        found = json.load(file)
    assert found["type"] == "FeatureCollection"
    for feature in found["features"]:
        assert feature["type"] == "Feature"
        geometry = feature["geometry"]
        if geometry is not None:
            assert geometry["type"] == "Point"
            longitude, latitude = geometry["coordinates"]
            assert -180 <= longitude <= 180 and -90 <= latitude <= 90
    return {
        "points": {f["id"]: f["geometry"] and f["geometry"]["coordinates"] for f in found["features"]},
        "names": sorted({f["properties"]["organization"] for f in found["features"] if f["properties"]["organization"]}),
    }


def table(path):
    """No cell is a formula, and removing the added apostrophe gives the text back."""
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        for name, text in row.items():
            if name not in ("latitude", "longitude"):
                assert text.lstrip()[:1] not in tuple("=+-@") or text == "", (name, text)
    names = {row["organization"] for row in rows if row["organization"]}
    return {
        "targets": [row["target"] for row in rows],
        "sessions": [row["sessions"] for row in rows],
        "names": sorted(name[1:] if name.startswith("'") else name for name in names),
        "cells": sorted(names),
    }


READERS = {"stix": stix, "misp": misp, "geojson": geojson, "csv": table}

if __name__ == "__main__":
    print(json.dumps(READERS[sys.argv[1]](sys.argv[2])))
