"""An event of MISP in its JSON format, by MISP's library pymisp."""

import datetime
import json
from typing import Iterator

from .targets import Export, ExportError, Target

try:
    from pymisp import MISPAttribute, MISPEvent, MISPOrganisation
except ImportError as error:
    raise ExportError(f"the format misp needs the Python library pymisp: pip install pymisp==2.5.34.4 ({error})") from error

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)


def event(export: Export) -> Iterator[str]:
    """Returns the event, as `Event` in an object, which is what MISP imports."""
    times = [target.last_seen for target in export.targets if target.last_seen is not None]
    newest = max(times, default=EPOCH)
    scope = (export.table, export.campaign or "")
    # Without this argument, the library leaves the times out.
    result = MISPEvent(force_timestamps=True)
    result.from_dict(
        uuid=str(export.identifier("event", *scope)),
        info=export.title,
        date=newest.date(),
        timestamp=int(newest.timestamp()),
        published=False,
        # Only the own organisation sees the event until a user of MISP changes this.
        distribution=0,
        analysis=2,
        threat_level_id=3,
    )
    organisation = MISPOrganisation()
    organisation.from_dict(name=export.producer, uuid=str(export.identifier("identity")))
    result.Orgc = organisation
    result.add_tag(f"tlp:{export.tlp}")
    for target in export.targets:
        result.attributes.append(attribute(export, scope, target, newest))
    # The library writes the attributes of an object in alphabetic order, so equal events are equal bytes.
    yield json.dumps({"Event": json.loads(result.to_json())}, indent=1, sort_keys=True) + "\n"


def attribute(export: Export, scope: tuple, target: Target, newest: datetime.datetime) -> MISPAttribute:
    """Returns the attribute of a target."""
    result = MISPAttribute()
    result.force_timestamp = True
    times = {}
    if target.first_seen is not None:
        times = {"first_seen": target.first_seen, "last_seen": target.last_seen}
    result.from_dict(
        uuid=str(export.identifier("attribute", *scope, target.target)),
        type="AS" if target.unit == "asn" else "ip-src",
        category="Network activity",
        # MISP writes numbers of networks without `AS`.
        value=str(target.asn) if target.unit == "asn" else target.target,
        to_ids=True,
        comment=target.notes,
        timestamp=int((target.last_seen or newest).timestamp()),
        distribution=5,
        **times,
    )
    for kind in target.ip_types:
        result.add_tag(f"ip-type:{kind.lower()}")
    return result
