-- Deferred triggers of a table fire with the statement, as the role that runs it, and not at the end of the transaction.
SET CONSTRAINTS ALL IMMEDIATE
