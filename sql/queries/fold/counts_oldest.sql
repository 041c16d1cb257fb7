-- Returns the time of the oldest pending count.
SELECT LEAST(
    (SELECT min(@extschema@.session_time(d.counted_at)) FROM @extschema@.session_delta d),
    (SELECT min(@extschema@.session_time(d.counted_at)) FROM @extschema@.network_delta d))
