-- Sums by UTC day and key: what most reports need, without the users, sessions and agents of usage_days.
create table usage_keys (
    day integer not null,
    project text not null,
    key_id text not null,
    model text not null,
    status text not null,
    requests integer not null,
    prompt_tokens integer not null,
    completion_tokens integer not null,
    cost_nanos integer not null,
    saved_nanos integer not null,
    unpriced integer not null,
    primary key (day, project, key_id, model, status)
) strict, without rowid;

-- Sums whose last request was removed, for their deletion.
create index usage_keys_empty on usage_keys (day) where requests = 0;

-- One row: the sums by key are complete from here on, in this order. The server fills in what is before, in small
-- batches from usage_days, and then sets the day to -2^53.
create table usage_keys_from (
    day integer not null,
    project text not null,
    key_id text not null
) strict;

insert into usage_keys_from (day, project, key_id) select coalesce(max(day) + 86400, -9007199254740992), '', ''
from usage_days;
