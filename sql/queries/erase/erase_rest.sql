-- Erases these addresses from all tables of the extension, except the inventories and the pending counts. The caller
-- has locked the jobs that look up the addresses. A job is deleted if no other address waits for its answer. An answer
-- about a block is deleted if it names one of these addresses.
-- $1 inet[]: addresses
WITH history AS (
    DELETE FROM @extschema@.ip_asn_history h WHERE h.ip_address = ANY ($1)
), request AS (
    DELETE FROM @extschema@.enrichment_request r WHERE r.ip_address = ANY ($1)
), waiting AS (
    DELETE FROM @extschema@.job_address a WHERE a.ip_address = ANY ($1)
    RETURNING a.provider, a.lookup_key
), unneeded AS (
    SELECT w.provider, w.lookup_key FROM waiting w
    UNION
    SELECT j.provider, j.lookup_key
    FROM @extschema@.enrichment_job j
    WHERE j.lookup_key IN (SELECT host(u.ip) FROM unnest($1) u(ip))
), job AS (
    DELETE FROM @extschema@.enrichment_job j
    USING unneeded n
    WHERE j.provider = n.provider AND j.lookup_key = n.lookup_key
      AND NOT EXISTS (
          SELECT FROM @extschema@.job_address a
          WHERE a.provider = j.provider AND a.lookup_key = j.lookup_key AND a.ip_address <> ALL ($1))
), letter AS (
    DELETE FROM @extschema@.dead_letter d WHERE d.ip_address = ANY ($1)
), letter_text AS (
    UPDATE @extschema@.dead_letter d
    SET last_error = 'The error named an address that was erased.'
    WHERE (d.ip_address IS NULL OR d.ip_address <> ALL ($1)) AND @extschema@.mentions_address(d.last_error, $1)
), incomplete AS (
    DELETE FROM @extschema@.incomplete_session s WHERE s.ip_address = ANY ($1)
), completion AS (
    DELETE FROM @extschema@.session_completion c WHERE c.ip_address = ANY ($1)
), completion_text AS (
    UPDATE @extschema@.session_completion c
    SET last_error = 'The error named an address that was erased.'
    WHERE c.ip_address <> ALL ($1) AND c.last_error IS NOT NULL AND @extschema@.mentions_address(c.last_error, $1)
), block AS (
    DELETE FROM @extschema@.block_answer b
    USING (
        SELECT c.provider, c.prefix
        FROM @extschema@.providers() p
        CROSS JOIN unnest($1) u(ip)
        JOIN @extschema@.block_answer c
          ON c.provider = p.provider AND c.prefix >>= u.ip
         AND c.prefix BETWEEN network(set_masklen(u.ip, CASE family(u.ip) WHEN 4 THEN 8 ELSE 16 END)) AND u.ip
        WHERE masklen(c.prefix) = CASE family(c.prefix) WHEN 4 THEN 32 ELSE 128 END
           OR @extschema@.mentions_address(concat_ws(' ', c.network_name, c.document::text), $1)) n
    WHERE b.provider = n.provider AND b.prefix = n.prefix
), exception AS (
    -- Deletes a blocklist exception only if its prefix is exactly one of these addresses. A wider prefix does not
    -- identify an address.
    DELETE FROM @extschema@.blocklist_exception e
    WHERE e.prefix = ANY (SELECT u.ip::cidr FROM unnest($1) u(ip))
), exception_text AS (
    UPDATE @extschema@.blocklist_exception e
    SET note = 'The note named an address that was erased.'
    WHERE (e.prefix IS NULL OR e.prefix <> ALL (SELECT u.ip::cidr FROM unnest($1) u(ip)))
      AND e.note IS NOT NULL AND @extschema@.mentions_address(e.note, $1)
), owner_text AS (
    UPDATE @extschema@.suspended_owner o
    SET reason = 'The error named an address that was erased.'
    WHERE @extschema@.mentions_address(o.reason, $1)
), rejected AS (
    DELETE FROM @extschema@.rejected_row r
    WHERE @extschema@.mentions_address(concat_ws(' ', r.row_key, r.reason, r.content), $1)
)
UPDATE @extschema@.procedure_call c
SET resume_at = NULL
WHERE c.resume_at IS NOT NULL AND @extschema@.mentions_address(c.resume_at::text, $1)
