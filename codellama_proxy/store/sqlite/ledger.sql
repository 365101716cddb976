-- name: scopes
-- The balances of a request's scopes, at most four; missing ones have no row.
select scope, rpm_level, tpm_level, rated_at, budget_duration, window_start, window_end, first_seq,
       spent_nanos, held_nanos, folded_nanos
from scopes where scope in (?, ?, ?, ?);

-- name: scope
-- The balance of one scope.
select scope, rpm_level, tpm_level, rated_at, budget_duration, window_start, window_end, first_seq,
       spent_nanos, held_nanos, folded_nanos
from scopes where scope = :scope;

-- name: every_scope
-- All balances, up to a number.
select scope, rpm_level, tpm_level, rated_at, budget_duration, window_start, window_end, first_seq,
       spent_nanos, held_nanos, folded_nanos
from scopes limit ?;

-- name: put_scopes
-- Balances of scopes, one row for each. What is folded does not change.
insert into scopes (scope, rpm_level, tpm_level, rated_at, budget_duration, window_start, window_end,
                    first_seq, spent_nanos, held_nanos, folded_nanos)
values {rows}
on conflict (scope) do update set
    rpm_level = excluded.rpm_level, tpm_level = excluded.tpm_level, rated_at = excluded.rated_at,
    budget_duration = excluded.budget_duration, window_start = excluded.window_start,
    window_end = excluded.window_end, first_seq = excluded.first_seq, spent_nanos = excluded.spent_nanos,
    held_nanos = excluded.held_nanos;

-- name: open_scope
-- The balance of a scope whose window opened.
insert or replace into scopes (scope, rpm_level, tpm_level, rated_at, budget_duration, window_start, window_end,
                               first_seq, spent_nanos, held_nanos, folded_nanos)
values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: last_seq
-- The sequence of the newest request; 0 if there is none.
select coalesce(max(seq), 0) from requests;

-- name: status
-- Whether a request is held, and how it ended.
select status from requests where request_id = ?;

-- name: insert_held
-- The rows of admitted requests.
insert into requests (seq, request_id, created_at, project, key_id, user, endpoint, model_requested, stream, config,
                      hold_nanos, estimate_nanos, estimate_tokens, model, deployment, session, agent, status)
values {rows}
on conflict do nothing;

-- name: insert_finished
-- The rows of requests that ended before their admission was written.
insert into requests (seq, request_id, created_at, project, key_id, user, endpoint, model_requested, stream, config,
                      hold_nanos, estimate_nanos, estimate_tokens, session, agent,
                      status, http_status, attempts, model, deployment, upstream_model,
                      prompt_tokens, completion_tokens, cached_tokens, cache_write_tokens, reasoning_tokens,
                      cost_nanos, saved_nanos, basis, cache, first_ms, total_ms)
values {rows}
on conflict do nothing;

-- name: extend
-- A further attempt of a held row: the hold, input estimate, earlier attempts, and its model and deployment.
update requests set hold_nanos = ?, estimate_nanos = ?, attempts = ?, model = ?, deployment = ?
where seq = ? and status = 'held';

-- name: complete
-- Completes rows that are still held; affects no row the second time. The plus sign keeps the search by sequence.
update requests set
    status = column3, http_status = column4, attempts = column5, model = column6, deployment = column7,
    upstream_model = column8, prompt_tokens = column9, completion_tokens = column10, cached_tokens = column11,
    cache_write_tokens = column12, reasoning_tokens = column13, cost_nanos = column14, saved_nanos = column15,
    basis = column16, cache = column17, first_ms = column18, total_ms = column19
from (values {rows})
where seq = column1 and request_id = column2 and +status = 'held';

-- name: held
-- The values of a held row that settling needs.
select seq, project, key_id, user, hold_nanos, estimate_tokens from requests
where request_id = ? and status = 'held';

-- name: journal
-- Names the journal that continues this database, and those that were replayed to it and may still have files.
insert or replace into installation (name, value) values ('journal', ?), ('replayed_journals', ?);

-- name: journals
-- The same; no rows before the first start.
select name, value from installation where name in ('journal', 'replayed_journals');

-- name: keep_content
-- The prompt and response of a request, if content is stored.
insert into request_contents (request_id, content) values (?, ?) on conflict do nothing;

-- name: orphans
-- Rows left held by a crash, oldest first: what settling needs, then what they cost.
with held as materialized (
    select seq, project, key_id, user, request_id, hold_nanos, estimate_nanos, estimate_tokens, attempts, model,
           deployment
    from requests where status = 'held'
)
select * from held order by seq;

-- name: running
-- Running requests of a scope: filters the few held rows, never all rows of a key.
with held as materialized (select project, key_id, user from requests where status = 'held')
select count(*) from held where {scope};

-- name: first_use
-- When a scope was first used.
select created_at from requests where {scope} order by seq limit 1;

-- name: before_window
-- The last request of a scope outside a window, if any; searched from the end, so it needs no index on time.
select seq from requests where {scope} and (+created_at < :start or +created_at >= :end)
order by seq desc limit 1;

-- name: booked
-- What the requests of a scope from one sequence on have spent and hold.
select coalesce(sum(cost_nanos), 0), coalesce(sum(case when status = 'held' then hold_nanos else 0 end), 0)
from requests where {scope} and seq >= :first_seq;

-- name: folded
-- What a scope spent in requests that are only kept as daily totals.
select coalesce(sum(cost_nanos), 0) from totals where {scope} and day >= :day;

-- name: all_scopes
-- Every balance, for reconciliation.
select scope, first_seq, spent_nanos, held_nanos, folded_nanos from scopes
where first_seq is not null order by scope;

-- name: fold_batch
-- The oldest rows, without the newest of all: its sequence would be reused.
select seq, created_at, status from requests where seq < (select max(seq) from requests) order by seq limit ?;

-- name: fold_totals
-- Adds rows up to a sequence to their day.
insert into totals (day, project, key_id, user, model, status, requests, prompt_tokens, completion_tokens,
                    cost_nanos, saved_nanos, unpriced)
select date(created_at, 'unixepoch'), project, coalesce(key_id, ''), coalesce(user, ''), coalesce(model, ''),
       status, count(*), coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0),
       coalesce(sum(cost_nanos), 0), coalesce(sum(saved_nanos), 0), sum(cost_nanos is null)
from requests where seq <= :upto group by 1, 2, 3, 4, 5, 6
on conflict (day, project, key_id, user, model, status) do update set
    requests = requests + excluded.requests,
    prompt_tokens = prompt_tokens + excluded.prompt_tokens,
    completion_tokens = completion_tokens + excluded.completion_tokens,
    cost_nanos = cost_nanos + excluded.cost_nanos,
    saved_nanos = saved_nanos + excluded.saved_nanos,
    unpriced = unpriced + excluded.unpriced;

-- name: fold_scopes
-- Scopes whose window has rows up to a sequence.
select scope, first_seq from scopes where first_seq <= ?;

-- name: fold_scope
-- What a scope spent in the rows being folded.
select coalesce(sum(cost_nanos), 0) from requests where {scope} and seq between :first_seq and :upto;

-- name: folded_more
-- Adds to the part of a scope's spending that has no rows any more.
update scopes set folded_nanos = folded_nanos + :nanos where scope = :scope;

-- name: drop_contents
-- Removes the contents of the rows being folded.
delete from request_contents where request_id in (select request_id from requests where seq <= :upto);

-- name: drop_requests
-- Removes the rows that were added to the totals.
delete from requests where seq <= :upto;

-- name: make_grouped
-- Requests of one batch for the sums, summed by all groups; only this connection has them.
create temp table if not exists grouped_requests (
    created_at integer, project text, key_id text, user text, session text, agent text, model text, status text,
    requests integer, prompt_tokens integer, completion_tokens integer, cost_nanos integer, saved_nanos integer,
    unpriced integer, first_seq integer, seq integer
);

-- name: group_requests
-- Reads each request of the batch once.
insert into grouped_requests
select cast(created_at as integer) / 3600 * 3600, project, key_id, user, session, agent, model, status,
       count(*), sum(prompt_tokens), sum(completion_tokens), sum(cost_nanos), sum(saved_nanos),
       sum(cost_nanos is null), min(seq), max(seq)
from requests where seq > :after and seq <= :upto group by 1, 2, 3, 4, 5, 6, 7, 8;

-- name: drop_grouped
-- Removes them after the batch.
delete from grouped_requests;
