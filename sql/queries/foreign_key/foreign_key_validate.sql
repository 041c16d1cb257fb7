-- Looks at all rows of a table, with a lock that neither readers nor writers mind.
ALTER TABLE @table@ VALIDATE CONSTRAINT cowrie_enrich_address
