-- name: limits
-- The sequence to begin before, the last one in the sums, and whether there is a request to begin before.
select
    coalesce((select seq from requests where request_id = ? and {scope}), (select max(seq) + 1 from requests), 1),
    (select upto from rolled_up),
    exists (select 1 from requests where request_id = ? and {scope});

-- name: from_hour
-- The first sequence of the hours from one on.
select min(first_seq) from usage_hours where hour >= ?;

-- name: before_hour
-- The last sequence of the hours that begin before a time.
select max(last_seq) from usage_hours where hour < ?;

-- name: last_with
-- The last sequence of the hours that have requests with these names, of those with requests before a sequence.
select max(last_seq) from usage_hours where first_seq < ? and {where};

-- name: floor
-- The sequence of a scope's Nth request in a span, newest first.
select seq from requests where {scope} and seq >= ? and seq <= ? order by seq desc limit 1 offset ?;

-- name: page
-- Requests of a span, newest first.
select {columns} from requests where {where} and seq >= ? and seq <= ? order by seq desc limit ?;

-- name: boundary
-- A scope's first request from a sequence on.
select request_id, created_at from requests where {scope} and seq >= ? order by seq limit 1;

-- name: newer
-- The next newer request of a search, among so many sequences.
select request_id from requests where {where} and seq > ? and seq <= ? order by seq limit 1;

-- name: older
-- The next older request of a search, among so many sequences.
select request_id from requests where {where} and seq < ? and seq >= ? order by seq desc limit 1;

-- name: among
-- Those of some requests that a search finds, newest first.
select {columns} from requests where {where} and request_id in ({ids}) order by seq desc;

-- name: seq_of
-- The sequence of a request.
select seq from requests where request_id = ?;
