-- Number of attached tables that are not intact.
SELECT count(DISTINCT t.rel) FROM @extschema@.attached_tables t WHERE NOT t.is_intact
