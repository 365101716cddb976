-- name: logs
-- One page of requests, newest first.
select {columns} from requests where {where} order by seq desc limit ? offset ?;

-- name: logs_by_time
-- One page of requests, newest first: searched where the sums by hour have any, and after them.
select {columns} from (
    select seq from (
        select seq from requests where seq > (select upto from rolled_up) and {where} order by seq desc limit ?
    ) as newer
    union all
    select seq from (
        select seq from requests
        where seq >= (select min(first_seq) from usage_hours where {summed})
          and seq <= (select max(last_seq) from usage_hours where {summed}) and {where}
        order by seq desc limit ?
    ) as older
    order by seq desc limit ? offset ?
) as found join requests using (seq) order by seq desc;

-- name: count_by_index
-- How many requests there are in all pages, if an index has the filters.
select count(*) from requests where {where};

-- name: count
-- How many requests there are in all pages.
select coalesce(sum(requests), 0) from ({rows}) as parts;

-- name: before
-- Requests older than one, newest first.
select {columns} from requests where {where} and seq < ? order by seq desc limit ?;

-- name: seq_of
-- The sequence number of a request.
select seq from requests where request_id = ?;

-- name: whole
-- One request and its content.
select {columns}, content from requests left join request_contents using (request_id) where request_id = ?;

-- name: after
-- Requests younger than one, oldest first.
select seq, {columns} from requests where seq > ? order by seq limit ?;

-- name: spend
-- Sums over rows and daily totals, by any of the groups.
select {names}
       cast(coalesce(sum(requests), 0) as bigint) as requests,
       cast(coalesce(sum(prompt_tokens), 0) as bigint) as prompt_tokens,
       cast(coalesce(sum(completion_tokens), 0) as bigint) as completion_tokens,
       cast(coalesce(sum(cost_nanos), 0) as bigint) as cost_nanos,
       cast(coalesce(sum(saved_nanos), 0) as bigint) as saved_nanos,
       cast(coalesce(sum(unpriced), 0) as bigint) as unpriced
from (
    {rows}
    union all
    select {of_totals} requests, prompt_tokens, completion_tokens, cost_nanos, saved_nanos, unpriced
    from totals where {totals}
) as parts {among} {order};

-- name: largest
-- The groups with the largest sums.
select {group}_ from ({spend}) as sums order by {measure} desc, 1 limit ?;

-- name: of_requests
-- The part of a sum that is read from rows.
select {groups} 1 as requests, prompt_tokens, completion_tokens, cost_nanos, saved_nanos,
       case when cost_nanos is null and status <> 'held' then 1 else 0 end as unpriced
    from requests where {where};

-- name: newer
-- Condition: rows that are not in the sums. The second sequence is no further than the first.
seq > (select upto from rolled_up) and seq > ? and {where};

-- name: in_hours
-- Condition: rows in the sums by hour, of the hours from one to before another. SQLite searches by one upper bound only.
seq >= (select min(first_seq) from usage_hours where hour >= ? and hour < ?)
      and seq <= (select max(last_seq) from usage_hours where hour >= ? and hour < ?);

-- name: since_agent
-- Condition: hours from the first day of an agent on. An index of the sums has those with an agent.
hour >= (select min(day) from usage_days where agent <> '' and agent = ?);

-- name: until_agent
-- Condition: hours up to the last day of an agent.
hour < (select max(day) + 86400 from usage_days where agent <> '' and agent = ?);

-- name: in_keys
-- Condition: sums by key, as far back as they are complete.
day > (select day from usage_keys_from);

-- name: before_keys
-- Condition: sums by day, where those by key are not complete. The first part is constant: it is checked once.
(select day from usage_keys_from) > -9007199254740992 and day <= (select day from usage_keys_from);

-- name: not_filled
-- Condition: rows that are not in the sums by hour which an older version did not have.
(select seq from hours_filled_from) > 0 and seq <= (select seq from hours_filled_from);

-- name: size
-- How many sums a report reads, counted up to a limit.
select count(*) from (select 1 as one from {table} where {where} limit ?) as found;

-- name: size_of_edges
-- How many rows a report reads at both ends of its time range.
select coalesce(sum(requests), 0) from usage_hours where {where};

-- name: of_usage
-- The part of a sum that is read from sums.
select {groups} requests, prompt_tokens, completion_tokens, cost_nanos, saved_nanos, unpriced
    from {table} where {where};

-- name: of_usage_prefix
-- The same, grouped by the columns with which the primary key begins.
select {groups} cast(sum(requests) as bigint) as requests, cast(sum(prompt_tokens) as bigint) as prompt_tokens,
       cast(sum(completion_tokens) as bigint) as completion_tokens, cast(sum(cost_nanos) as bigint) as cost_nanos,
       cast(sum(saved_nanos) as bigint) as saved_nanos, cast(sum(unpriced) as bigint) as unpriced
    from {table} where {where} group by {prefix};

-- name: spend_page
-- One page of groups; the row with a count in front has the number of groups and the sums over all of them.
with grouped as ({spend})
select count(*), {nulls} coalesce(sum(requests), 0), coalesce(sum(prompt_tokens), 0),
       coalesce(sum(completion_tokens), 0), coalesce(sum(cost_nanos), 0), coalesce(sum(saved_nanos), 0),
       coalesce(sum(unpriced), 0)
from grouped
union all
select * from (select cast(null as bigint), grouped.* from grouped {order} limit ? offset ?) as page;

-- name: uncertain
-- Requests that are not booked as the upstream reported.
select coalesce(basis, status), count(*), coalesce(sum(cost_nanos), 0) from requests
where status <> 'held' and basis not in ('exact', 'cached') group by 1 order by 1;

-- name: before_last
-- The sequence number before the newest N requests.
select coalesce((select seq from requests order by seq desc limit 1 offset ?), 0);

-- name: settled
-- Sums up to the sequence in the first row, which has a 1 in front, and the sequence of the oldest request there is.
with grouped as ({spend})
select 1, (select upto from rolled_up), coalesce((select min(seq) from requests), 0), {nulls} 0, 0, 0, 0, 0, 0
union all
select 0, 0, 0, grouped.* from grouped;

-- name: is_settled
-- Column: whether a request is in the sums.
case when seq <= (select upto from rolled_up) then 1 else 0 end as settled_,;

-- name: newer_than
-- Sums of the requests after a sequence, in the same form, by whether they are in the sums.
with grouped as (
    select settled_, {names} sum(requests) as requests, coalesce(sum(prompt_tokens), 0) as prompt_tokens,
           coalesce(sum(completion_tokens), 0) as completion_tokens, coalesce(sum(cost_nanos), 0) as cost_nanos,
           coalesce(sum(saved_nanos), 0) as saved_nanos, coalesce(sum(unpriced), 0) as unpriced
    from ({rows}) as parts {among} group by {positions}
)
select 1, (select upto from rolled_up), coalesce((select min(seq) from requests), 0), 0, {nulls} 0, 0, 0, 0, 0, 0
union all
select 0, 0, 0, grouped.* from grouped;
