-- Returns a row for each provider. The row has the sizes of the provider's queue, in the order of store::sizes::QUEUES,
-- and the age of the oldest row in the queue, in microseconds.
SELECT q.provider, q.requested, q.due, q.leased, q.delayed, q.addresses, q.dead,
       (EXTRACT(epoch FROM q.oldest_age) * 1000000)::bigint
FROM @extschema@.queue_status q
