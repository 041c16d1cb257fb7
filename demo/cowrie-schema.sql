-- The tables that the honeypot Cowrie's PostgreSQL output writes: the same names, types, keys and indexes as
-- Cowrie's docs/sql/postgres.sql, so that the same statements work on a honeypot's own database.

CREATE TABLE sensors (
    id serial PRIMARY KEY,
    ip varchar(255) NOT NULL
);
COMMENT ON COLUMN sensors.ip IS 'name of the sensor, and not its address';

CREATE TABLE clients (
    id serial PRIMARY KEY,
    version varchar(50) NOT NULL
);

CREATE TABLE sessions (
    id char(32) PRIMARY KEY,
    starttime timestamp NOT NULL,
    endtime timestamp,
    sensor integer NOT NULL,
    ip varchar(61) NOT NULL DEFAULT '',
    termsize varchar(7),
    client integer
);
CREATE INDEX ON sessions (starttime, sensor);

CREATE TABLE auth (
    id serial PRIMARY KEY,
    session char(32) NOT NULL,
    success boolean NOT NULL,
    username varchar(100) NOT NULL,
    password varchar(100) NOT NULL,
    "timestamp" timestamp NOT NULL
);

CREATE TABLE input (
    id serial PRIMARY KEY,
    session char(32) NOT NULL,
    "timestamp" timestamp NOT NULL,
    realm varchar(50),
    success boolean,
    input text NOT NULL
);
CREATE INDEX ON input (session, "timestamp", realm);

CREATE TABLE downloads (
    id serial PRIMARY KEY,
    session char(32) NOT NULL,
    "timestamp" timestamp NOT NULL,
    url text NOT NULL,
    outfile text,
    shasum varchar(64)
);
CREATE INDEX ON downloads (session, "timestamp");

CREATE TABLE ttylog (
    id serial PRIMARY KEY,
    session char(32) NOT NULL,
    ttylog varchar(100) NOT NULL,
    size integer NOT NULL
);

CREATE TABLE params (
    id serial PRIMARY KEY,
    session char(32) NOT NULL,
    arch varchar(32) NOT NULL
);
CREATE INDEX params_arch_index ON params (arch);

CREATE TABLE keyfingerprints (
    id serial PRIMARY KEY,
    session char(32) NOT NULL,
    username varchar(100) NOT NULL,
    fingerprint varchar(100) NOT NULL
);

CREATE TABLE ipforwards (
    id serial PRIMARY KEY,
    session char(32) NOT NULL REFERENCES sessions (id),
    "timestamp" timestamp NOT NULL,
    dst_ip varchar(255) NOT NULL DEFAULT '',
    dst_port integer NOT NULL
);
CREATE INDEX ON ipforwards (session);

CREATE TABLE ipforwardsdata (
    id serial PRIMARY KEY,
    session char(32) NOT NULL REFERENCES sessions (id),
    "timestamp" timestamp NOT NULL,
    dst_ip varchar(255) NOT NULL DEFAULT '',
    dst_port integer NOT NULL,
    data text NOT NULL
);
CREATE INDEX ON ipforwardsdata (session, "timestamp");
