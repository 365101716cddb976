-- What is to be delivered to a tracking service, in the order it came: never reused numbers, the oldest first.
create table outbox (
    id integer primary key autoincrement,
    kind text not null check (kind in ('request', 'score', 'metadata')),
    request_id text not null,
    body blob not null,
    -- Bytes of this and everything put in before it since the outbox was last empty: a difference is a size.
    upto integer not null,
    tries integer not null default 0,
    next_at real not null default 0
) strict;

-- Least tried first, so that what cannot be delivered does not hold up what can.
create index outbox_order on outbox (tries, id);
create index outbox_request on outbox (request_id, kind);

-- The service's own numbers of our requests, for scores that come later.
create table tracked (
    request_id text not null primary key,
    service_id integer not null,
    tracked_at real not null
) strict, without rowid;

create index tracked_at on tracked (tracked_at);
