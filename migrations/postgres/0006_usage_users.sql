-- breaks: 0.1.0
-- Older processes would not add to these sums.

-- Sums by UTC day and user, without the sessions and agents of usage_days, which may be very many.
create table usage_users (
    day bigint not null,
    project text collate "C" not null,
    key_id text collate "C" not null,
    "user" text collate "C" not null,
    model text collate "C" not null,
    status text collate "C" not null,
    requests bigint not null,
    prompt_tokens bigint not null,
    completion_tokens bigint not null,
    cost_nanos bigint not null,
    saved_nanos bigint not null,
    unpriced bigint not null,
    primary key (day, project, key_id, "user", model, status)
);

-- Sums whose last request was removed, for their deletion.
create index usage_users_empty on usage_users (day) where requests = 0;

insert into usage_users (day, project, key_id, "user", model, status, requests, prompt_tokens, completion_tokens,
                         cost_nanos, saved_nanos, unpriced)
select day, project, key_id, "user", model, status, sum(requests), sum(prompt_tokens), sum(completion_tokens),
       sum(cost_nanos), sum(saved_nanos), sum(unpriced)
from usage_days group by 1, 2, 3, 4, 5, 6;
