-- name: ends
-- The oldest and the newest, and how many bytes had come up to each: both looks are at an end of the table.
select
    (select id from outbox order by id limit 1),
    (select upto - length(body) from outbox order by id limit 1),
    (select id from outbox order by id desc limit 1),
    (select upto from outbox order by id desc limit 1);

-- name: put
-- One more record.
insert into outbox (kind, request_id, body, upto) values (?, ?, ?, ?);

-- name: drop_oldest
-- Gives up the record that has waited longest.
delete from outbox where id = (select id from outbox order by id limit 1);

-- name: due
-- What may be sent now; a score waits until its request has been delivered. A time too far ahead is a clock's jump.
select o.id, o.kind, o.request_id, o.body, o.tries, t.service_id
from outbox o left join tracked t on t.request_id = o.request_id
where (o.next_at <= :now or o.next_at > :now + :farthest)
  and (o.kind = 'request'
       or not exists (select 1 from outbox p where p.request_id = o.request_id and p.kind = 'request'))
order by o.tries, o.id limit :most;

-- name: remove
-- A record that was delivered, or never will be.
delete from outbox where id = ?;

-- name: tracked
-- What the service calls a request.
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
-- The service's numbers of requests that are too old to be scored.
delete from tracked where tracked_at < ?;
