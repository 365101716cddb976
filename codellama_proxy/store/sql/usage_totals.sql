-- name: upto
-- The last request that is in the sums.
select upto from rolled_up;

-- name: next_batch
-- The last request of the next batch: before the first one that is held; null if there is none.
select max(seq) from (
    select seq from requests
    where seq > :upto and seq < coalesce((select min(+seq) from requests where status = 'held'), 9223372036854775807)
    order by seq limit :rows
) as batch;

-- name: advance
-- Requests up to this one are in the sums now.
update rolled_up set upto = :upto;

-- name: add_hours
-- Adds a range of requests to the sums by hour, or takes it away.
insert into usage_hours (hour, project, model, status, requests, prompt_tokens, completion_tokens, cost_nanos,
                         saved_nanos, unpriced, first_seq, last_seq)
select cast(created_at as integer) / 3600 * 3600, project, coalesce(model, ''), status, :sign * count(*),
       :sign * coalesce(sum(prompt_tokens), 0), :sign * coalesce(sum(completion_tokens), 0),
       :sign * coalesce(sum(cost_nanos), 0), :sign * coalesce(sum(saved_nanos), 0),
       :sign * count(*) filter (where cost_nanos is null),
       min(seq), max(seq)
from requests where seq > :after and seq <= :upto group by 1, 2, 3, 4
on conflict (hour, project, model, status) do update set
    requests = usage_hours.requests + excluded.requests,
    prompt_tokens = usage_hours.prompt_tokens + excluded.prompt_tokens,
    completion_tokens = usage_hours.completion_tokens + excluded.completion_tokens,
    cost_nanos = usage_hours.cost_nanos + excluded.cost_nanos,
    saved_nanos = usage_hours.saved_nanos + excluded.saved_nanos,
    unpriced = usage_hours.unpriced + excluded.unpriced,
    first_seq = min(usage_hours.first_seq, excluded.first_seq),
    last_seq = max(usage_hours.last_seq, excluded.last_seq);

-- name: add_models
-- Adds a range of requests to the sums by day and model, or takes it away.
insert into usage_models (day, project, model, status, requests, prompt_tokens, completion_tokens, cost_nanos,
                          saved_nanos, unpriced)
select cast(created_at as integer) / 86400 * 86400, project, coalesce(model, ''), status, :sign * count(*),
       :sign * coalesce(sum(prompt_tokens), 0), :sign * coalesce(sum(completion_tokens), 0),
       :sign * coalesce(sum(cost_nanos), 0), :sign * coalesce(sum(saved_nanos), 0),
       :sign * count(*) filter (where cost_nanos is null)
from requests where seq > :after and seq <= :upto group by 1, 2, 3, 4
on conflict (day, project, model, status) do update set
    requests = usage_models.requests + excluded.requests,
    prompt_tokens = usage_models.prompt_tokens + excluded.prompt_tokens,
    completion_tokens = usage_models.completion_tokens + excluded.completion_tokens,
    cost_nanos = usage_models.cost_nanos + excluded.cost_nanos,
    saved_nanos = usage_models.saved_nanos + excluded.saved_nanos,
    unpriced = usage_models.unpriced + excluded.unpriced;

-- name: add_days
-- Adds a range of requests to the sums by day, or takes it away.
insert into usage_days (day, project, key_id, user, session, agent, model, status, requests, prompt_tokens,
                        completion_tokens, cost_nanos, saved_nanos, unpriced)
select cast(created_at as integer) / 86400 * 86400, project, coalesce(key_id, ''), coalesce(user, ''),
       coalesce(session, ''), coalesce(agent, ''), coalesce(model, ''), status, :sign * count(*),
       :sign * coalesce(sum(prompt_tokens), 0), :sign * coalesce(sum(completion_tokens), 0),
       :sign * coalesce(sum(cost_nanos), 0), :sign * coalesce(sum(saved_nanos), 0),
       :sign * count(*) filter (where cost_nanos is null)
from requests where seq > :after and seq <= :upto group by 1, 2, 3, 4, 5, 6, 7, 8
on conflict (day, project, key_id, user, session, agent, model, status) do update set
    requests = usage_days.requests + excluded.requests,
    prompt_tokens = usage_days.prompt_tokens + excluded.prompt_tokens,
    completion_tokens = usage_days.completion_tokens + excluded.completion_tokens,
    cost_nanos = usage_days.cost_nanos + excluded.cost_nanos,
    saved_nanos = usage_days.saved_nanos + excluded.saved_nanos,
    unpriced = usage_days.unpriced + excluded.unpriced;

-- name: add_users
-- Adds a range of requests to the sums by user, or takes it away.
insert into usage_users (day, project, key_id, user, model, status, requests, prompt_tokens,
                        completion_tokens, cost_nanos, saved_nanos, unpriced)
select cast(created_at as integer) / 86400 * 86400, project, coalesce(key_id, ''), coalesce(user, ''),
       coalesce(model, ''), status, :sign * count(*),
       :sign * coalesce(sum(prompt_tokens), 0), :sign * coalesce(sum(completion_tokens), 0),
       :sign * coalesce(sum(cost_nanos), 0), :sign * coalesce(sum(saved_nanos), 0),
       :sign * count(*) filter (where cost_nanos is null)
from requests where seq > :after and seq <= :upto group by 1, 2, 3, 4, 5, 6
on conflict (day, project, key_id, user, model, status) do update set
    requests = usage_users.requests + excluded.requests,
    prompt_tokens = usage_users.prompt_tokens + excluded.prompt_tokens,
    completion_tokens = usage_users.completion_tokens + excluded.completion_tokens,
    cost_nanos = usage_users.cost_nanos + excluded.cost_nanos,
    saved_nanos = usage_users.saved_nanos + excluded.saved_nanos,
    unpriced = usage_users.unpriced + excluded.unpriced;

-- name: add_keys
-- Adds a range of requests to the sums by key, or takes it away, as far back as those are complete.
insert into usage_keys (day, project, key_id, model, status, requests, prompt_tokens, completion_tokens, cost_nanos,
                        saved_nanos, unpriced)
select cast(created_at as integer) / 86400 * 86400, project, coalesce(key_id, ''), coalesce(model, ''), status,
       :sign * count(*),
       :sign * coalesce(sum(prompt_tokens), 0), :sign * coalesce(sum(completion_tokens), 0),
       :sign * coalesce(sum(cost_nanos), 0), :sign * coalesce(sum(saved_nanos), 0),
       :sign * count(*) filter (where cost_nanos is null)
from requests where seq > :after and seq <= :upto
    and (cast(created_at as integer) / 86400 * 86400, project, coalesce(key_id, ''))
        >= (select day, project, key_id from usage_keys_from)
group by 1, 2, 3, 4, 5
on conflict (day, project, key_id, model, status) do update set
    requests = usage_keys.requests + excluded.requests,
    prompt_tokens = usage_keys.prompt_tokens + excluded.prompt_tokens,
    completion_tokens = usage_keys.completion_tokens + excluded.completion_tokens,
    cost_nanos = usage_keys.cost_nanos + excluded.cost_nanos,
    saved_nanos = usage_keys.saved_nanos + excluded.saved_nanos,
    unpriced = usage_keys.unpriced + excluded.unpriced;

-- name: keys_from
-- From where on the sums by key are complete, in the order of day, project and key.
select day, project, key_id from usage_keys_from;

-- name: earlier_keys
-- The start of the next batch of the sums by day that are added to those by key; no row if there are none left.
select day, project, key_id from (
    select day, project, key_id from usage_days where (day, project, key_id) < (:day, :project, :key_id)
    order by day desc, project desc, key_id desc limit :rows
) as batch order by day, project, key_id limit 1;

-- name: fill_keys
-- Adds the sums by day of a batch to the sums by key.
insert into usage_keys (day, project, key_id, model, status, requests, prompt_tokens, completion_tokens, cost_nanos,
                        saved_nanos, unpriced)
select day, project, key_id, model, status, sum(requests), sum(prompt_tokens), sum(completion_tokens), sum(cost_nanos),
       sum(saved_nanos), sum(unpriced)
from usage_days where (day, project, key_id) >= (:day, :project, :key_id)
    and (day, project, key_id) < (select day, project, key_id from usage_keys_from)
group by 1, 2, 3, 4, 5;

-- name: set_keys_from
-- The sums by key are complete from here on.
update usage_keys_from set day = :day, project = :project, key_id = :key_id;

-- name: drop_empty_hours
-- Removes sums by hour that have no requests any more.
delete from usage_hours where requests = 0;

-- name: drop_empty_models
-- Removes sums by day and model that have no requests any more.
delete from usage_models where requests = 0;

-- name: drop_empty_days
-- Removes sums by day that have no requests any more.
delete from usage_days where requests = 0;

-- name: drop_empty_users
-- Removes sums by user that have no requests any more.
delete from usage_users where requests = 0;

-- name: drop_empty_keys
-- Removes sums by key that have no requests any more.
delete from usage_keys where requests = 0;

-- name: check_hours
-- Hours whose sums differ from their requests: the sums' cost and the requests' cost.
with summed as (
    select hour as at, project, model, status, requests, prompt_tokens, completion_tokens, cost_nanos, saved_nanos,
           unpriced
    from usage_hours
), expected as (
    select cast(created_at as integer) / 3600 * 3600 as at, project, coalesce(model, '') as model, status,
           count(*) as requests, coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0),
           coalesce(sum(cost_nanos), 0) as cost_nanos, coalesce(sum(saved_nanos), 0),
           count(*) filter (where cost_nanos is null)
    from requests where seq <= (select upto from rolled_up) group by 1, 2, 3, 4
), wrong as (
    select at from (select * from summed except select * from expected) as more
    union
    select at from (select * from expected except select * from summed) as fewer
)
select at, (select coalesce(sum(cost_nanos), 0) from summed where summed.at = wrong.at),
       (select coalesce(sum(cost_nanos), 0) from expected where expected.at = wrong.at)
from wrong order by at;

-- name: check_models
-- Days whose sums by model differ from their requests: the sums' cost and the requests' cost.
with summed as (
    select day as at, project, model, status, requests, prompt_tokens, completion_tokens, cost_nanos, saved_nanos,
           unpriced
    from usage_models
), expected as (
    select cast(created_at as integer) / 86400 * 86400 as at, project, coalesce(model, '') as model, status,
           count(*) as requests, coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0),
           coalesce(sum(cost_nanos), 0) as cost_nanos, coalesce(sum(saved_nanos), 0),
           count(*) filter (where cost_nanos is null)
    from requests where seq <= (select upto from rolled_up) group by 1, 2, 3, 4
), wrong as (
    select at from (select * from summed except select * from expected) as more
    union
    select at from (select * from expected except select * from summed) as fewer
)
select at, (select coalesce(sum(cost_nanos), 0) from summed where summed.at = wrong.at),
       (select coalesce(sum(cost_nanos), 0) from expected where expected.at = wrong.at)
from wrong order by at;

-- name: check_days
-- Days whose sums differ from their requests: the sums' cost and the requests' cost.
with summed as (
    select day as at, project, key_id, user, session, agent, model, status, requests, prompt_tokens,
           completion_tokens, cost_nanos, saved_nanos, unpriced
    from usage_days
), expected as (
    select cast(created_at as integer) / 86400 * 86400 as at, project, coalesce(key_id, ''), coalesce(user, ''),
           coalesce(session, ''), coalesce(agent, ''), coalesce(model, ''), status,
           count(*) as requests, coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0),
           coalesce(sum(cost_nanos), 0) as cost_nanos, coalesce(sum(saved_nanos), 0),
           count(*) filter (where cost_nanos is null)
    from requests where seq <= (select upto from rolled_up) group by 1, 2, 3, 4, 5, 6, 7, 8
), wrong as (
    select at from (select * from summed except select * from expected) as more
    union
    select at from (select * from expected except select * from summed) as fewer
)
select at, (select coalesce(sum(cost_nanos), 0) from summed where summed.at = wrong.at),
       (select coalesce(sum(cost_nanos), 0) from expected where expected.at = wrong.at)
from wrong order by at;

-- name: check_users
-- Days whose sums by user differ from their requests: the sums' cost and the requests' cost.
with summed as (
    select day as at, project, key_id, user, model, status, requests, prompt_tokens,
           completion_tokens, cost_nanos, saved_nanos, unpriced
    from usage_users
), expected as (
    select cast(created_at as integer) / 86400 * 86400 as at, project, coalesce(key_id, ''), coalesce(user, ''),
           coalesce(model, ''), status,
           count(*) as requests, coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0),
           coalesce(sum(cost_nanos), 0) as cost_nanos, coalesce(sum(saved_nanos), 0),
           count(*) filter (where cost_nanos is null)
    from requests where seq <= (select upto from rolled_up) group by 1, 2, 3, 4, 5, 6
), wrong as (
    select at from (select * from summed except select * from expected) as more
    union
    select at from (select * from expected except select * from summed) as fewer
)
select at, (select coalesce(sum(cost_nanos), 0) from summed where summed.at = wrong.at),
       (select coalesce(sum(cost_nanos), 0) from expected where expected.at = wrong.at)
from wrong order by at;

-- name: check_keys
-- Days whose sums by key differ from their requests: the sums' cost and the requests' cost.
with summed as (
    select day as at, project, key_id, model, status, requests, prompt_tokens, completion_tokens, cost_nanos,
           saved_nanos, unpriced
    from usage_keys
), expected as (
    select cast(created_at as integer) / 86400 * 86400 as at, project, coalesce(key_id, ''),
           coalesce(model, ''), status,
           count(*) as requests, coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0),
           coalesce(sum(cost_nanos), 0) as cost_nanos, coalesce(sum(saved_nanos), 0),
           count(*) filter (where cost_nanos is null)
    from requests where seq <= (select upto from rolled_up)
        and (cast(created_at as integer) / 86400 * 86400, project, coalesce(key_id, ''))
            >= (select day, project, key_id from usage_keys_from)
    group by 1, 2, 3, 4, 5
), wrong as (
    select at from (select * from summed except select * from expected) as more
    union
    select at from (select * from expected except select * from summed) as fewer
)
select at, (select coalesce(sum(cost_nanos), 0) from summed where summed.at = wrong.at),
       (select coalesce(sum(cost_nanos), 0) from expected where expected.at = wrong.at)
from wrong order by at;
