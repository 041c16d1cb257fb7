-- Returns the number of networks whose entry in known_networks was edited, if the edit has not been applied to the
-- network yet.
SELECT count(DISTINCT r.asn_number) FROM @extschema@.network_reclassification r
