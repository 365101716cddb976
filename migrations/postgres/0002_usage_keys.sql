-- breaks: 0.1.0
-- Older processes would not add to these sums.

-- Sums by UTC day and key: what most reports need, without the users, sessions and agents of usage_days.
create table usage_keys (
    day bigint not null,
    project text collate "C" not null,
    key_id text collate "C" not null,
    model text collate "C" not null,
    status text collate "C" not null,
    requests bigint not null,
    prompt_tokens bigint not null,
    completion_tokens bigint not null,
    cost_nanos bigint not null,
    saved_nanos bigint not null,
    unpriced bigint not null,
    primary key (day, project, key_id, model, status)
);

-- Sums whose last request was removed, for their deletion.
create index usage_keys_empty on usage_keys (day) where requests = 0;

-- One row: the sums by key are complete from here on, in this order. The server fills in what is before, in small
-- batches from usage_days, and then sets the day to -2^53.
create table usage_keys_from (
    day bigint not null,
    project text collate "C" not null,
    key_id text collate "C" not null
);

insert into usage_keys_from (day, project, key_id) select coalesce(max(day) + 86400, -9007199254740992), '', ''
from usage_days;
