-- Validates all rows of a table, with a lock that blocks neither readers nor writers.
ALTER TABLE @table@ VALIDATE CONSTRAINT cowrie_enrich_address
