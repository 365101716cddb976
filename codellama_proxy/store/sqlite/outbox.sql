-- name: ends
-- The ids and cumulative bytes of the oldest and the newest record, read from the two ends of the table.
select
    (select id from outbox order by id limit 1),
    (select upto - length(body) from outbox order by id limit 1),
    (select id from outbox order by id desc limit 1),
    (select upto from outbox order by id desc limit 1);

-- name: put
-- One more record.
insert into outbox (kind, request_id, body, upto) values (?, ?, ?, ?);

-- name: drop_oldest
-- Drops the oldest record.
delete from outbox where id = (select id from outbox order by id limit 1);

-- name: due
-- Records that may be sent now. A score waits for its request. A `next_at` too far ahead means the clock was set back.
select o.id, o.kind, o.request_id, o.body, o.tries, t.service_id
from outbox o left join tracked t on t.request_id = o.request_id
where (o.next_at <= :now or o.next_at > :now + :farthest)
  and (o.kind = 'request'
       or not exists (select 1 from outbox p where p.request_id = o.request_id and p.kind = 'request'))
order by o.tries, o.id limit :most;

-- name: remove
-- Removes a record that was delivered or given up.
delete from outbox where id = ?;

-- name: tracked
-- The service's id of a request.
insert into tracked (request_id, service_id, tracked_at) values (?, ?, ?)
on conflict (request_id) do update set service_id = excluded.service_id;

-- name: later
-- Another try, at a later time.
update outbox set tries = tries + 1, next_at = ? where id = ?;

-- name: knows
-- Whether a request was delivered, or will be.
select exists (select 1 from tracked where request_id = :request_id)
    or exists (select 1 from outbox where request_id = :request_id and kind = 'request');

-- name: waiting
-- How many records wait.
select count(*) from outbox;

-- name: forget
-- Drops the service's ids of requests that are too old to be scored.
delete from tracked where tracked_at < ?;
