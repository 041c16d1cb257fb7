-- Completes sessions that are already stored: sets unknown values and replaces no known value.
UPDATE sessions
SET endtime = coalesce(sessions.endtime, staged.endtime::timestamp),
    termsize = coalesce(sessions.termsize, staged.termsize),
    client = coalesce(
        sessions.client,
        (SELECT min(clients.id) FROM clients WHERE clients.version = staged.client)
    )
FROM loading_sessions AS staged
WHERE sessions.id = staged.id
  AND NOT staged.fresh
  AND (
      (sessions.endtime IS NULL AND staged.endtime IS NOT NULL)
      OR (sessions.termsize IS NULL AND staged.termsize IS NOT NULL)
      OR (sessions.client IS NULL AND staged.client IS NOT NULL)
  )
