INSERT INTO clients (version)
SELECT staged.client
FROM loading_sessions AS staged
WHERE staged.client IS NOT NULL
  AND NOT EXISTS (SELECT FROM clients WHERE clients.version = staged.client)
GROUP BY staged.client
ORDER BY min(staged.nth)
