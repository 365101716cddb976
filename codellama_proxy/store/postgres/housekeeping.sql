-- {table}: a partition of `settled`.

-- name: alone
-- Whether no other transaction does housekeeping. Compiling statements over all partitions takes too long.
select pg_try_advisory_xact_lock(%s), set_config('jit', 'off', true);

-- name: next_batch
-- The last request of the next batch of sums, before the first one that is held or young; null if there is none.
select max(seq) from (
    select seq from settled
    where seq > %(upto)s
      and seq < coalesce((select min(seq) from held), 9223372036854775807)
      and seq < coalesce(
          (select min(seq) from settled
           where seq > %(upto)s and created_at >= extract(epoch from clock_timestamp())::float8 - %(young)s),
          9223372036854775807)
    order by seq limit %(rows)s
) batch;

-- name: drop_unlimited
-- Removes balances without a limit for so many seconds. Skips locked ones: waiting out of their order could deadlock.
delete from scopes where scope in (
    select scope from scopes where unlimited_since < extract(epoch from clock_timestamp())::float8 - %s
    limit 1000 for update skip locked);

-- name: midnight
-- The beginning of the present day.
select floor(extract(epoch from clock_timestamp())::float8 / 86400) * 86400;

-- name: first_held
-- The oldest request that runs.
select coalesce(min(seq), 9223372036854775807) from held;

-- name: oldest_rows
-- The oldest rows of a partition.
select seq, created_at from {table} order by seq limit %s;

-- name: whole
-- The number of rows, the newest row, and the last sequence of a partition.
select count(*), max(created_at), coalesce(max(seq), 0) from {table};

-- name: scopes
-- Scopes whose window has rows up to a sequence.
select scope, first_seq from scopes where first_seq <= %s order by scope;

-- name: lock_scopes
-- The same, locked.
select scope, first_seq from scopes where first_seq <= %s order by scope for no key update;

-- name: scope_sum
-- What a scope spent in the rows being folded.
select coalesce(sum(cost_nanos), 0) from {table}
where {scope} and seq between %(first_seq)s::bigint and %(upto)s::bigint;

-- name: add_to_scope
-- Adds to the part of a scope's spending that has no rows any more.
update scopes set folded_nanos = folded_nanos + %(nanos)s where scope = %(scope)s;

-- name: add_to_totals
-- Adds rows up to a sequence to their day.
insert into totals (day, project, key_id, "user", model, status, requests, prompt_tokens, completion_tokens,
                    cost_nanos, saved_nanos, unpriced)
select to_char(to_timestamp(created_at) at time zone 'UTC', 'YYYY-MM-DD'), project, coalesce(key_id, ''),
       coalesce("user", ''), coalesce(model, ''),
       status, count(*), coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0),
       coalesce(sum(cost_nanos), 0), coalesce(sum(saved_nanos), 0), count(*) filter (where cost_nanos is null)
from {table} where seq <= %s group by 1, 2, 3, 4, 5, 6
on conflict (day, project, key_id, "user", model, status) do update set
    requests = totals.requests + excluded.requests,
    prompt_tokens = totals.prompt_tokens + excluded.prompt_tokens,
    completion_tokens = totals.completion_tokens + excluded.completion_tokens,
    cost_nanos = totals.cost_nanos + excluded.cost_nanos,
    saved_nanos = totals.saved_nanos + excluded.saved_nanos,
    unpriced = totals.unpriced + excluded.unpriced;

-- name: drop_contents
-- Removes the contents of rows up to a sequence.
delete from request_contents where request_id in (select request_id from {table} where seq <= %s);

-- name: drop_rows
-- Removes rows up to a sequence.
delete from {table} where seq <= %s;

-- name: lock_tables
-- Nothing is inserted until the transaction ends; taken before the locks of scopes, as the ledger does.
lock table settled, request_contents in access exclusive mode;

-- name: impatient
-- For what would hold up every insert while it waits behind a report.
select set_config('lock_timeout', '200ms', true);

-- name: partitions
-- The partitions of `settled` with a day, oldest first.
select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
where i.inhparent = 'settled'::regclass and c.relname <> 'settled_other' order by 1;

-- name: occupied
-- Whether the default partitions have rows of a day: then no partition can be made for it.
select exists (select 1 from settled_other where request_id >= %(first)s and request_id < %(end)s)
    or exists (select 1 from request_contents_other where request_id >= %(first)s and request_id < %(end)s);

-- name: without_user_index
-- The partitions that an older version made, without the index by user and sequence.
select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
where i.inhparent = 'settled'::regclass and not exists (
    select from pg_index x join pg_inherits j on j.inhrelid = x.indexrelid
    where x.indrelid = c.oid and j.inhparent = 'settled_user_seq'::regclass)
order by 1;

-- name: has_rows
-- Whether a partition has any.
select exists (select 1 from {table});

-- name: has_older_index
-- Whether there still is the index that the one by user and sequence replaces.
select to_regclass('settled_user') is not null;
