-- A session table is attached. Its sessions get the attribution of their address.
CREATE TABLE sessions (id int PRIMARY KEY, ip varchar(61) NOT NULL DEFAULT '', starttime timestamptz);
SELECT attach_session_table('sessions', 'ip', 'starttime');
\d sessions

INSERT INTO sessions VALUES
    (1, '8.8.8.8', '2024-05-01 10:00+00'),
    (2, '::ffff:8.8.8.8', '2024-05-02 10:00+00'),
    (3, '48.0.0.1', '2024-05-02 11:00+00'),
    (4, '10.0.0.1', '2024-05-02 12:00+00'),
    (5, 'not an ip', '2024-05-02 13:00+00'),
    (6, '', '2024-05-02 14:00+00');
SELECT id, ip, snapshot_asn, snapshot_country, snapshot_ip_type FROM sessions ORDER BY id;

-- An address is filled later. A client tries to change a snapshot.
UPDATE sessions SET ip = '1.1.1.1' WHERE id = 6;
UPDATE sessions SET snapshot_country = 'ZZ';
SELECT id, ip, snapshot_asn, snapshot_country FROM sessions ORDER BY id;

CALL fold_statistics();
SET timezone = 'UTC';
SELECT ip_address, current_asn, geo_country, session_count, first_seen, last_seen
FROM ip_inventory WHERE session_count > 0 ORDER BY ip_address;
SELECT asn_number, organization_name, unique_ip_count, total_session_count
FROM asn_inventory ORDER BY asn_number;

SELECT detach_session_table('sessions');
\d sessions
