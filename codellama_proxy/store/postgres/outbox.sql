-- name: put
-- One more record.
insert into outbox (kind, request_id, body) values (%s, %s, %s);

-- name: claim
-- Leases records that may be sent now, least tried first; a score waits for its request. A `next_at` far ahead: the clock was set back.
update outbox set next_at = %(now)s::float8 + %(lease)s::float8
where id in (
    select o.id from outbox o
    where (o.next_at <= %(now)s or o.next_at > %(now)s::float8 + %(farthest)s::float8)
      and (o.kind = 'request'
           or not exists (select 1 from outbox p where p.request_id = o.request_id and p.kind = 'request'))
    order by o.tries, o.id limit %(most)s for update skip locked
)
returning id, kind, request_id, body, tries,
    (select service_id from tracked t where t.request_id = outbox.request_id);

-- name: remove
-- Removes records that were delivered or given up.
delete from outbox where id = %s;

-- name: tracked
-- The service's id of a request.
insert into tracked (request_id, service_id, tracked_at) values (%s, %s, %s)
on conflict (request_id) do update set service_id = excluded.service_id;

-- name: later
-- Another try, at a later time.
update outbox set tries = tries + 1, next_at = %s where id = %s;

-- name: knows
-- Whether a request was delivered, or will be.
select exists (select 1 from tracked where request_id = %(request_id)s)
    or exists (select 1 from outbox where request_id = %(request_id)s and kind = 'request');

-- name: drop_oldest
-- Removes the oldest records that do not fit, by number and by bytes; one always fits.
delete from outbox where id in (
    select id from (
        select id, row_number() over (order by id desc) as position,
               sum(length(body)) over (order by id desc) as bytes
        from outbox
    ) o where position > 1 and (position > %(records)s or bytes > %(bytes)s)
);

-- name: forget
-- Drops the service's ids of requests that are too old to be scored.
delete from tracked where tracked_at < %s;
