-- The ledger's statements, with psycopg's placeholders. A transaction is two round trips: beat, settle, find, lock; then
-- hold, extend, keep. Rows travel as JSON: always the same statement, whatever their number.

-- name: register
-- A new worker.
insert into workers (worker, name, version, digest, loaded_at, started_at, beat_at)
values (%(worker)s, %(name)s, %(version)s, %(digest)s, %(loaded_at)s,
        extract(epoch from clock_timestamp())::float8, extract(epoch from clock_timestamp())::float8);

-- name: describe
-- The configuration that a worker has in force.
update workers set digest = %(digest)s, loaded_at = %(loaded_at)s where worker = %(worker)s;

-- name: beat
-- First in every transaction: the heartbeat, the version of keys, and a wait for the worker's own earlier transaction.
update workers set beat_at = extract(epoch from clock_timestamp())::float8, batch = %s where worker = %s
returning beat_at, (select version from changes where what = 'keys'),
    set_config('synchronous_commit', 'off', true), set_config('lock_timeout', '4s', true),
    set_config('statement_timeout', '6s', true), set_config('idle_in_transaction_session_timeout', '1s', true);

-- name: last_batch
-- The number of a worker's last transaction that took effect; waits for one that may still be running.
select batch from workers where worker = %s for update;

-- name: settle
-- Moves held rows to the settled ones.
with gone as (delete from held where request_id = any(%s) returning *)
insert into settled (
    request_id, seq, created_at, project, key_id, "user", session, agent, endpoint, model_requested, stream, config,
    hold_nanos, estimate_nanos, estimate_tokens,
    status, http_status, attempts, model, deployment, upstream_model, prompt_tokens, completion_tokens, cached_tokens,
    cache_write_tokens, reasoning_tokens, cost_nanos, saved_nanos, basis, cache, first_ms, total_ms)
select
    g.request_id, g.seq, g.created_at, g.project, g.key_id, g."user", g.session, g.agent, g.endpoint,
    g.model_requested, g.stream, g.config, g.hold_nanos, g.estimate_nanos, g.estimate_tokens,
    e.status, e.http_status, e.attempts, e.model, e.deployment, e.upstream_model, e.prompt_tokens,
    e.completion_tokens, e.cached_tokens, e.cache_write_tokens, e.reasoning_tokens, e.cost_nanos, e.saved_nanos,
    e.basis, e.cache, e.first_ms, e.total_ms
from gone g join json_populate_recordset(null::settled, %s::json) e using (request_id)
returning request_id, seq, project, key_id, "user", hold_nanos, estimate_tokens;

-- name: find
-- Held rows that a further attempt is about.
select request_id, seq, project, key_id, "user", hold_nanos, estimate_tokens
from held where request_id = any(%s) order by request_id for update;

-- name: scopes_of
-- Whose scopes held rows count in.
select request_id, project, key_id, "user" from held where request_id = any(%s);

-- name: lock
-- The balances, locked in the order of their names, and the time after the last lock.
select extract(epoch from clock_timestamp())::float8, s.scope, s.rpm_level, s.tpm_level, s.rated_at, s.running,
       s.budget_duration, s.duration_since, s.window_start, s.window_end, s.first_seq, s.spent_nanos, s.held_nanos, s.folded_nanos,
       s.verified, s.unlimited_since
from (select * from scopes where scope = any(%s) order by scope for no key update) s;

-- name: hold
-- The rows of admitted requests.
insert into held (
    request_id, worker, created_at, project, key_id, "user", session, agent, endpoint, model_requested, model,
    deployment, stream, config, hold_nanos, estimate_nanos, estimate_tokens)
select
    request_id, worker, created_at, project, key_id, "user", session, agent, endpoint, model_requested, model,
    deployment, stream, config, hold_nanos, estimate_nanos, estimate_tokens
from json_populate_recordset(null::held, %s::json);

-- name: extend
-- Further attempts: added hold, input estimate, earlier attempts, and model and deployment.
update held h set
    hold_nanos = h.hold_nanos + x.hold_nanos, estimate_nanos = x.estimate_nanos, attempts = x.attempts,
    model = x.model, deployment = x.deployment
from json_populate_recordset(null::held, %s::json) x where h.request_id = x.request_id;

-- name: keep_scopes
-- Balances that changed.
update scopes s set
    rpm_level = x.rpm_level, tpm_level = x.tpm_level, rated_at = x.rated_at, running = x.running,
    budget_duration = x.budget_duration, duration_since = x.duration_since, window_start = x.window_start, window_end = x.window_end,
    first_seq = x.first_seq, spent_nanos = x.spent_nanos, held_nanos = x.held_nanos, folded_nanos = x.folded_nanos,
    unlimited_since = x.unlimited_since
from json_populate_recordset(null::scopes, %s::json) x where s.scope = x.scope;

-- name: keep_contents
-- Prompts and answers, if they are stored.
insert into request_contents (request_id, content)
select request_id, content from json_populate_recordset(null::request_contents, %s::json) on conflict do nothing;

-- name: flush
-- Returns when everything committed before is on disk: a transaction of its own, with synchronous_commit on.
select pg_logical_emit_message(true, '', '');

-- name: open_scopes
-- Rows of scopes that are limited now; others may be running in them.
insert into scopes (scope, opened_at) select x, extract(epoch from clock_timestamp())::float8 from unnest(%s::text[]) x
order by x on conflict (scope) do nothing returning scope;

-- name: opened
-- The number of running requests of a new row.
update scopes set running = %(running)s where scope = %(scope)s;

-- name: unverified
-- Rows that were made while transactions ran that did not know of them, and none of those runs any more.
select scope from scopes
where verified = 0 and opened_at < extract(epoch from clock_timestamp())::float8 - %s order by scope limit 50;

-- name: verify
-- The balance of a scope, summed up again.
update scopes set running = %(running)s, spent_nanos = %(spent)s, held_nanos = %(held)s, verified = 1
where scope = %(scope)s;

-- name: workers
-- The other workers, their last beats and configurations.
select worker, beat_at, digest from workers where worker <> %s;

-- name: left_behind
-- Workers without a row that still have held rows.
select distinct worker from held h where not exists (select 1 from workers w where w.worker = h.worker) limit 5;

-- name: take_over
-- Locks a dead worker's row, unless it beat after all or another process is at it.
select 1 from workers where worker = %(worker)s and beat_at = %(beat_at)s for update skip locked;

-- name: orphans
-- Rows that a dead worker holds, oldest first.
select request_id, hold_nanos, estimate_nanos, estimate_tokens, attempts, model, deployment
from held where worker = %s order by seq limit %s;

-- name: sign_off
-- Removes a worker that holds nothing.
delete from workers w where worker = %(worker)s and not exists (select 1 from held h where h.worker = %(worker)s);

-- name: own_held
-- What a worker holds.
select request_id from held where worker = %s;

-- name: known_settled
-- Which of these requests are settled, and how.
select request_id, basis from settled where request_id = any(%s);

-- name: running
-- Running requests of a scope.
select count(*) from held where {scope};

-- name: first_use
-- When a scope was first used.
select created_at from requests where {scope} order by seq limit 1;

-- name: before_window
-- The last request of a scope outside a window, if any.
select seq from requests
where {scope} and (created_at < %(start)s::float8 or created_at >= %(end)s::float8) order by seq desc limit 1;

-- name: booked
-- What the requests of a scope from one sequence on have spent and hold.
select (select coalesce(sum(cost_nanos), 0) from settled where {scope} and seq >= %(first_seq)s::bigint),
       (select coalesce(sum(hold_nanos), 0) from held where {scope} and seq >= %(first_seq)s::bigint);

-- name: folded
-- What a scope spent in requests that are only kept as daily totals.
select coalesce(sum(cost_nanos), 0) from totals where {scope} and day >= %(day)s;

-- name: balance
-- The balance of one scope, without a lock.
select extract(epoch from clock_timestamp())::float8, scope, rpm_level, tpm_level, rated_at, running, budget_duration,
       duration_since, window_start, window_end, first_seq, spent_nanos, held_nanos, folded_nanos, verified, unlimited_since
from scopes where scope = any(%s);

-- name: all_scopes
-- Every balance, for reconciliation.
select scope, first_seq, spent_nanos, held_nanos, folded_nanos, running from scopes order by scope;
