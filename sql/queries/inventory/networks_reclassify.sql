-- Sets the type and the flags of networks that the caller has locked. The values come from known_networks. If a network
-- has no entry there, the values come from the name of the network's organisation. Returns the networks that changed.
-- $1 bigint[]: ASNs of the networks
WITH classified AS MATERIALIZED (
    SELECT n.asn_number, c.asn_type, c.is_known_hosting, c.is_known_vpn
    FROM @extschema@.asn_inventory n
    CROSS JOIN LATERAL @extschema@.classify_network(n.asn_number, n.organization_name, false, false) c
    WHERE n.asn_number = ANY ($1)
)
UPDATE @extschema@.asn_inventory a
SET asn_type = c.asn_type,
    is_known_hosting = c.is_known_hosting,
    is_known_vpn = c.is_known_vpn,
    updated_at = now()
FROM classified c
WHERE a.asn_number = c.asn_number
  AND (c.asn_type, c.is_known_hosting, c.is_known_vpn) IS DISTINCT FROM (a.asn_type, a.is_known_hosting, a.is_known_vpn)
RETURNING a.asn_number, a.organization_country, a.rir_registry, a.organization_name
