"""Reads the targets with the rights of an analyst, in one read-only snapshot."""

import argparse
import datetime
import re
from typing import Dict, Iterable, List, Optional, Tuple

from .targets import Export, ExportError, Target

#: A number and a unit of time, such as `7 days`. All other values of --since are times.
INTERVAL = re.compile(r"\s*\d+\s*(min(ute)?|hour|day|week|month|year)s?\s*", re.IGNORECASE)

# PostgreSQL's times go further than those of Python and of the formats. Before 1970 there were no honeypots.
TIME = (
    "CASE WHEN {0} OPERATOR(pg_catalog.>=) '1970-01-01 00:00:00+00' AND {0} OPERATOR(pg_catalog.<) '9999-01-01 00:00:00+00' "
    "THEN {0} END"
)

TABLE = """
    SELECT c.oid, pg_catalog.format('%%I.%%I', n.nspname, c.relname)
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.oid = %(table)s::pg_catalog.regclass"""

TIME_COLUMN = """
    SELECT a.time_column, c.atttypid = 'pg_catalog.timestamp'::pg_catalog.regtype
    FROM {schema}.attached_columns(%(table)s::pg_catalog.oid::pg_catalog.regclass) a
    JOIN pg_catalog.pg_attribute c ON c.attrelid = %(table)s AND c.attname = a.time_column"""

# A sensor with a wrong clock may have stored later times.
NEWEST = """
    SELECT {newest} - %(since)s::pg_catalog.interval
    FROM (SELECT pg_catalog.max(s.{column}) AS newest FROM {name} s WHERE s.{column} <= {limit}) n"""

TARGETS = """
    SELECT t.target, t.unit, t.sessions, t.addresses, t.reason, {first_seen}, {last_seen}, {expires_at},
           t.asn, t.country, t.organization
    FROM ({rows}) t"""

# The condition may name tables of the search path of the caller, so this statement runs with that path. blocklist() computes the
# same expiry. In UTC the sum does not depend on a time zone.
CAMPAIGN = """
    SELECT pg_catalog.host(a.ip_address) AS target, 'address' AS unit, a.sessions, 1::bigint AS addresses, NULL AS reason,
           a.first_seen, a.last_seen,
           (a.last_seen AT TIME ZONE 'UTC' + %(lifetime)s::pg_catalog.interval) AT TIME ZONE 'UTC' AS expires_at,
           a.asn_then AS asn, a.country_then AS country, a.organization_then AS organization
    FROM {schema}.campaign_addresses(%(table)s::pg_catalog.oid::pg_catalog.regclass, %(campaign)s, %(stored_time_zone)s,
        %(since)s::pg_catalog.timestamptz) a
    WHERE a.sessions >= %(min_sessions)s"""

BLOCKLIST = """
    SELECT b.target, b.target_unit AS unit, b.sessions, b.addresses, b.reason, b.first_seen, b.last_seen, b.expires_at,
           NULL::bigint AS asn, NULL AS country, NULL AS organization
    FROM {schema}.blocklist(%(table)s::pg_catalog.oid::pg_catalog.regclass, %(since)s::pg_catalog.timestamptz,
        %(min_sessions)s, %(unit)s, %(min_density)s, %(lifetime)s::pg_catalog.interval, %(stored_time_zone)s) b"""

# Adds what the inventories and the mmdb files know, and leaves out the addresses that blocklist() leaves out. The location of a
# prefix is that of its first address.
FACTS = """
    SELECT t.number, network.asn, COALESCE(t.organization, n.organization_name), n.rir_registry,
           NULLIF(n.asn_type, 'UNKNOWN'), COALESCE(t.country, i.geo_country, l.country), l.city, l.latitude, l.longitude,
           l.accuracy_radius_km, COALESCE(i.ip_types, '{{}}'),
           LEAST({inventory_first_seen}, {network_first_seen})
    FROM ROWS FROM (
        pg_catalog.unnest(%(targets)s::pg_catalog.text[]), pg_catalog.unnest(%(asns)s::pg_catalog.int8[]),
        pg_catalog.unnest(%(countries)s::pg_catalog.text[]), pg_catalog.unnest(%(organizations)s::pg_catalog.text[])
    ) WITH ORDINALITY AS t(target, asn, country, organization, number)
    CROSS JOIN LATERAL (
        SELECT CASE WHEN t.target NOT LIKE 'AS%%' THEN t.target::pg_catalog.cidr END AS prefix) target
    CROSS JOIN LATERAL (
        SELECT target.prefix, pg_catalog.host(target.prefix)::pg_catalog.inet AS address,
               t.target LIKE '%%/%%' AS is_prefix) place
    LEFT JOIN {schema}.ip_inventory i ON i.ip_address = place.address AND NOT place.is_prefix
    LEFT JOIN LATERAL {schema}.ip_location(place.address) l ON true
    CROSS JOIN LATERAL (
        SELECT CASE
            WHEN place.prefix IS NULL THEN pg_catalog.substr(t.target, 3)::bigint
            ELSE COALESCE(t.asn, i.current_asn, {schema}.ip_asn(place.address)) END AS asn OFFSET 0) network
    LEFT JOIN {schema}.asn_inventory n ON n.asn_number = network.asn
    CROSS JOIN LATERAL (
        SELECT CASE WHEN place.is_prefix THEN (
            SELECT pg_catalog.min(p.first_seen) FROM {schema}.ip_inventory p
            WHERE p.ip_address >= place.prefix::pg_catalog.inet
              AND p.ip_address <= pg_catalog.set_masklen(
                  pg_catalog.broadcast(place.prefix), CASE pg_catalog.family(place.prefix) WHEN 4 THEN 32 ELSE 128 END))
            ELSE i.first_seen END AS first_seen OFFSET 0) known
    WHERE NOT %(is_campaign)s OR (
        place.address IN (
            SELECT b.ip_address FROM {schema}.blockable_addresses(
                CASE WHEN %(is_campaign)s THEN %(targets)s::pg_catalog.text[]::pg_catalog.inet[] END) b)
        -- The network at the time of the campaign.
        AND NOT EXISTS (SELECT FROM {schema}.blocklist_exception e WHERE e.asn_number = network.asn))
    ORDER BY CASE WHEN %(is_campaign)s THEN pg_catalog.family(place.prefix) END,
             CASE WHEN %(is_campaign)s THEN place.prefix END, t.number"""


def import_driver():
    """Returns the module psycopg2."""
    try:
        import psycopg2
        import psycopg2.sql
    except ImportError as error:
        raise ExportError(f"the Python library psycopg2 is missing: apt install python3-psycopg2 ({error})") from error
    return psycopg2


def read(arguments: argparse.Namespace) -> Export:
    """Returns the targets that the arguments ask for."""
    driver = import_driver()
    try:
        connection = driver.connect(arguments.dsn, fallback_application_name="cowrie-export")
        try:
            connection.set_client_encoding("UTF8")
            connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
            with connection.cursor() as cursor:
                return _read(cursor, driver.sql, arguments)
        finally:
            connection.close()
    except driver.Error as error:
        raise ExportError(_explained(error)) from error


def _explained(error) -> str:
    """Returns the error of the server with its detail and hint, on one line."""
    diagnostics = getattr(error, "diag", None)
    if diagnostics is None or diagnostics.message_primary is None:
        return " ".join(str(error).split())
    parts = [diagnostics.message_primary, diagnostics.message_detail, diagnostics.message_hint]
    if error.pgcode == "42501":
        parts.append("docs/analysis.md#rights has the rights of an analyst.")
    return " ".join(". ".join(part.rstrip(".") for part in parts if part).split())


def _read(cursor, sql, arguments: argparse.Namespace) -> Export:
    # A time without a time zone means UTC, whatever the setting of the role or database is.
    cursor.execute("SET LOCAL TIME ZONE 'UTC'")
    cursor.execute(
        "SELECT n.nspname FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace "
        "WHERE e.extname = 'cowrie_enrich'"
    )
    found = cursor.fetchone()
    if found is None:
        raise ExportError("the database does not have the extension cowrie_enrich")
    schema = sql.Identifier(found[0])

    def run(text: str, values: dict, **parts) -> List[tuple]:
        cursor.execute(sql.SQL(text).format(schema=schema, **parts), values)
        return cursor.fetchall()

    def time(expression: str):
        return sql.SQL(TIME.format(expression))

    table, name = run(TABLE, {"table": arguments.table})[0]
    values = {**vars(arguments), "table": table, "is_campaign": arguments.campaign is not None}
    now = values["now"] = _now(run, arguments.now)
    rows = []
    is_empty = False
    if arguments.since is not None and INTERVAL.fullmatch(arguments.since):
        values["since"] = _before_newest(run, sql, name, values)
        is_empty = values["since"] is None
    if not is_empty:
        rows = run(
            TARGETS,
            values,
            rows=sql.SQL(CAMPAIGN if values["is_campaign"] else BLOCKLIST).format(schema=schema),
            first_seen=time("t.first_seen"),
            last_seen=time("t.last_seen"),
            expires_at=time("t.expires_at"),
        )
        rows = _merged(rows)
    # From here on no name of the caller is looked up.
    cursor.execute("SET LOCAL search_path = pg_catalog, pg_temp")
    facts = run(
        FACTS,
        {
            "targets": [row[0] for row in rows],
            "asns": [row[8] for row in rows],
            "countries": [row[9] for row in rows],
            "organizations": [row[10] for row in rows],
            "is_campaign": values["is_campaign"],
        },
        inventory_first_seen=time("known.first_seen"),
        network_first_seen=time("(CASE WHEN place.prefix IS NULL THEN n.first_seen END)"),
    )
    return Export(
        targets=list(_targets(rows, facts)),
        table=name,
        campaign=arguments.campaign,
        now=now,
        producer=arguments.producer,
        title=arguments.title,
        tlp=arguments.tlp,
        nft_table=arguments.nft_table,
        nft_set=arguments.nft_set,
    )


def _now(run, given: Optional[str]) -> datetime.datetime:
    """Returns the time from which timeouts count: the given time, or the beginning of the current hour."""
    given_or_hour = "COALESCE(%(now)s::pg_catalog.timestamptz, pg_catalog.date_trunc('hour', pg_catalog.now()))"
    now = run(f"SELECT {TIME.format('n.now')} FROM (SELECT {given_or_hour} AS now) n", {"now": given})[0][0]
    if now is None:
        raise ExportError("--now must be a time between 1970 and 9998")
    return now


def _before_newest(run, sql, name: str, values: dict) -> Optional[datetime.datetime]:
    """Returns the time that is the interval --since before the newest session, or None if there is no session."""
    found = run(TIME_COLUMN, values)
    if not found:
        raise ExportError(f"{name} is not an attached table with a time column, so --since must be a time")
    column, is_local = found[0]
    newest, limit = "n.newest", "%(now)s::pg_catalog.timestamptz"
    if is_local:
        newest = f"pg_catalog.timezone(%(stored_time_zone)s, {newest})"
        limit = f"pg_catalog.timezone(%(stored_time_zone)s, {limit})"
    parts = {"newest": sql.SQL(newest), "limit": sql.SQL(limit), "name": sql.SQL(name), "column": sql.Identifier(column)}
    return run(NEWEST, values, **parts)[0][0]


def _merged(rows: List[tuple]) -> List[tuple]:
    """Joins the rows of a network: blocklist() returns one for IPv4 and one for IPv6."""
    found: Dict[str, tuple] = {}
    for row in rows:
        other = found.get(row[0])
        if other is not None:
            sums = (other[2] + row[2], other[3] + row[3], f"{other[4]}; {row[4]}")
            row = (*row[:2], *sums, _least(other[5], row[5]), _greatest(other[6], row[6]), _greatest(other[7], row[7]), *row[8:])
        found[row[0]] = row
    return list(found.values())


def _least(*times: Optional[datetime.datetime]) -> Optional[datetime.datetime]:
    return min((time for time in times if time is not None), default=None)


def _greatest(*times: Optional[datetime.datetime]) -> Optional[datetime.datetime]:
    return max((time for time in times if time is not None), default=None)


def _targets(rows: List[tuple], facts: Iterable[Tuple]) -> Iterable[Target]:
    for number, asn, organization, registry, kind, country, city, latitude, longitude, radius, types, known in facts:
        target, unit, sessions, addresses, reason, first_seen, last_seen, expires_at = rows[number - 1][:8]
        if reason is None:
            reason = f"{sessions} session{'' if sessions == 1 else 's'}"
            if last_seen is not None:
                reason += f", last on {last_seen.astimezone(datetime.timezone.utc):%Y-%m-%d}"
        yield Target(
            target=target,
            unit=unit,
            sessions=sessions,
            addresses=addresses,
            reason=reason,
            first_seen=first_seen,
            last_seen=last_seen,
            expires_at=expires_at,
            known_since=_least(known, first_seen),
            asn=asn,
            organization=organization,
            registry=registry,
            network_type=kind,
            country=country,
            city=city,
            latitude=latitude,
            longitude=longitude,
            accuracy_radius_km=radius,
            ip_types=sorted(types),
        )
