-- What overviews read besides sums.

-- name: balances
-- The budgets that were ever used, but those of users.
select scope, budget_duration, window_start, window_end, spent_nanos, held_nanos from scopes
where first_seq is not null and substr(scope, 1, 5) <> 'user:';

-- name: user_balances
-- The budgets of the users who spent most.
select scope, budget_duration, window_start, window_end, spent_nanos, held_nanos from scopes
where first_seq is not null and substr(scope, 1, 5) = 'user:'
order by spent_nanos + held_nanos desc, scope limit ?;

-- name: recent
-- The newest requests that have ended.
select created_at, status, model, cache, attempts, completion_tokens, first_ms, total_ms from requests
where {where} and status <> 'held' order by seq desc limit ?;

-- name: known_keys
-- The newest keys.
select key_id, project, name, prefix, created_at, expires_at, blocked, models, limits, metadata
from key_cards where {where} order by created_at desc, key_id limit ?;

-- name: keys
-- The newest keys, and when each was last used: of most, among the newest requests, which takes half the time.
select key_id, project, name, prefix, created_at, expires_at, blocked, models, limits, metadata, coalesce(
    (
        select requests.created_at from requests
        where requests.key_id = key_cards.key_id and seq > (select upto - 100000 from rolled_up)
        order by seq desc limit 1
    ),
    (select requests.created_at from requests where requests.key_id = key_cards.key_id order by seq desc limit 1)
) as last_used from key_cards where {where} order by created_at desc, key_id limit ?;

-- name: since
-- The oldest hour and day in sums, and the oldest request that is kept.
select (select min(hour) from usage_hours), (select min(day) from totals),
    (select created_at from requests order by seq limit 1);
