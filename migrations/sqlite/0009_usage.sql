-- Sums over the settled requests that `requests` still has, up to a sequence: reports add the few rows after it.
-- The server fills them in small batches after its start, so this migration reads no rows. Empty text stands for none.

-- One row: requests up to this sequence are in the sums.
create table rolled_up (upto integer not null) strict;

insert into rolled_up (upto) values (0);

-- By hour (unix seconds), without what has no bound. The sequences tell where the requests of an hour are.
create table usage_hours (
    hour integer not null,
    project text not null,
    model text not null,
    status text not null,
    requests integer not null,
    prompt_tokens integer not null,
    completion_tokens integer not null,
    cost_nanos integer not null,
    saved_nanos integer not null,
    unpriced integer not null,
    first_seq integer not null,
    last_seq integer not null,
    primary key (hour, project, model, status)
) strict, without rowid;

-- By UTC day (unix seconds of its midnight) with everything that reports group by; never more rows than requests.
create table usage_days (
    day integer not null,
    project text not null,
    key_id text not null,
    user text not null,
    session text not null,
    agent text not null,
    model text not null,
    status text not null,
    requests integer not null,
    prompt_tokens integer not null,
    completion_tokens integer not null,
    cost_nanos integer not null,
    saved_nanos integer not null,
    unpriced integer not null,
    primary key (day, project, key_id, user, session, agent, model, status)
) strict, without rowid;

-- Sums whose last request was removed, for their deletion.
create index usage_hours_empty on usage_hours (hour) where requests = 0;
create index usage_days_empty on usage_days (day) where requests = 0;

-- For the log of what failed. A request that succeeds pays nothing for them.
create index requests_error on requests (status) where status = 'error';
create index requests_cancelled on requests (status) where status = 'cancelled';
