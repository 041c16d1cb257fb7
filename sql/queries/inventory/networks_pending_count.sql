-- Number of networks that edits of known_networks concern.
SELECT count(DISTINCT r.asn_number) FROM @extschema@.network_reclassification r
