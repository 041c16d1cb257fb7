-- Staging tables of a batch. The batch is then inserted into Cowrie's tables. Each commit empties the staging tables,
-- and they are dropped with the connection. Times have a time zone here. The connection's TimeZone converts them to
-- Cowrie's `timestamp`, as TO_TIMESTAMP does in Cowrie's own inserts.

CREATE TEMPORARY TABLE loading_sessions (
    nth integer,
    id character(32),
    starttime timestamptz,
    endtime timestamptz,
    sensor text,
    ip text,
    termsize text,
    client text,
    connected boolean,
    fresh boolean NOT NULL DEFAULT false
) ON COMMIT DELETE ROWS;

CREATE TEMPORARY TABLE loading_auth (
    nth integer,
    session character(32),
    success boolean,
    username text,
    password text,
    "timestamp" timestamptz
) ON COMMIT DELETE ROWS;

CREATE TEMPORARY TABLE loading_input (
    nth integer,
    session character(32),
    "timestamp" timestamptz,
    realm text,
    success boolean,
    input text
) ON COMMIT DELETE ROWS;

CREATE TEMPORARY TABLE loading_downloads (
    nth integer,
    session character(32),
    "timestamp" timestamptz,
    url text,
    outfile text,
    shasum text
) ON COMMIT DELETE ROWS;

CREATE TEMPORARY TABLE loading_ttylog (
    nth integer,
    session character(32),
    ttylog text,
    size integer
) ON COMMIT DELETE ROWS;

CREATE TEMPORARY TABLE loading_params (
    nth integer,
    session character(32),
    arch text
) ON COMMIT DELETE ROWS;

CREATE TEMPORARY TABLE loading_keyfingerprints (
    nth integer,
    session character(32),
    username text,
    fingerprint text
) ON COMMIT DELETE ROWS;

CREATE TEMPORARY TABLE loading_ipforwards (
    nth integer,
    session character(32),
    "timestamp" timestamptz,
    dst_ip text,
    dst_port integer
) ON COMMIT DELETE ROWS;

CREATE TEMPORARY TABLE loading_ipforwardsdata (
    nth integer,
    session character(32),
    "timestamp" timestamptz,
    dst_ip text,
    dst_port integer,
    data text
) ON COMMIT DELETE ROWS;
