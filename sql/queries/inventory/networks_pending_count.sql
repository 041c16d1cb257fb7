-- Number of networks whose entry in known_networks was edited and not applied yet.
SELECT count(DISTINCT r.asn_number) FROM @extschema@.network_reclassification r
