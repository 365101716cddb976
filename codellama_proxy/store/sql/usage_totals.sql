-- {table}: of sums. {time}: its column with the start of the hour or day; {start}: the same of a request.
-- {names}: its groups; {named}: the values of a request. {complete}: a condition, if it is not complete.

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

-- name: add
-- Adds a range of requests to a table of sums, or takes it away.
insert into {table} ({time}, {names}, requests, prompt_tokens, completion_tokens, cost_nanos, saved_nanos,
                     unpriced{sequences})
select {start}, {named}, :sign * {count},
       :sign * coalesce(sum(prompt_tokens), 0), :sign * coalesce(sum(completion_tokens), 0),
       :sign * coalesce(sum(cost_nanos), 0), :sign * coalesce(sum(saved_nanos), 0),
       :sign * {unpriced}{sequences_of}
from {requests} where seq > :after and seq <= :upto {complete}
group by {positions}
on conflict ({time}, {names}) do update set
    requests = {table}.requests + excluded.requests,
    prompt_tokens = {table}.prompt_tokens + excluded.prompt_tokens,
    completion_tokens = {table}.completion_tokens + excluded.completion_tokens,
    cost_nanos = {table}.cost_nanos + excluded.cost_nanos,
    saved_nanos = {table}.saved_nanos + excluded.saved_nanos,
    unpriced = {table}.unpriced + excluded.unpriced{more_sequences};

-- name: more_sequences
-- The first and the last request of an hour.
, first_seq = min(usage_hours.first_seq, excluded.first_seq), last_seq = max(usage_hours.last_seq, excluded.last_seq);

-- name: in_keys
-- Condition: requests as far back as the sums by key are complete.
and (cast(created_at as integer) / 86400 * 86400, project, coalesce(key_id, ''))
    >= (select day, project, key_id from usage_keys_from);

-- name: in_filled_hours
-- Condition: requests that the sums by hour have which an older version did not have.
and seq > (select seq from hours_filled_from);

-- name: hours_filled_from
-- Up to which request these are not filled.
select seq from hours_filled_from;

-- name: earlier_requests
-- The request before the next batch that is added to them.
select coalesce((select seq from requests where seq <= :seq order by seq desc limit 1 offset :rows), 0);

-- name: set_hours_filled_from
-- They have the requests after this one.
update hours_filled_from set seq = :seq;

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

-- name: drop_empty
-- Removes sums that have no requests any more.
delete from {table} where requests = 0;

-- name: check
-- Hours or days whose sums differ from their requests: the sums' cost and the requests' cost.
with summed as (
    select {time} as at, {names}, requests, prompt_tokens, completion_tokens, cost_nanos, saved_nanos, unpriced
    from {table}
), expected as (
    select {start} as at, {named}, count(*), coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0),
           coalesce(sum(cost_nanos), 0) as cost_nanos, coalesce(sum(saved_nanos), 0),
           count(*) filter (where cost_nanos is null)
    from requests where seq <= (select upto from rolled_up) {complete}
    group by {positions}
), wrong as (
    select at from (select * from summed except select * from expected) as more
    union
    select at from (select * from expected except select * from summed) as fewer
)
select at, (select coalesce(sum(cost_nanos), 0) from summed where summed.at = wrong.at),
       (select coalesce(sum(cost_nanos), 0) from expected where expected.at = wrong.at)
from wrong order by at;
