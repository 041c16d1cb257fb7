-- Validates the foreign key for all rows of a table. The lock of this statement blocks no reader and no writer of the
-- table.
ALTER TABLE @table@ VALIDATE CONSTRAINT cowrie_enrich_address
