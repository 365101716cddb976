-- Sums by UTC day and user, without the sessions and agents of usage_days, which may be very many.
create table usage_users (
    day integer not null,
    project text not null,
    key_id text not null,
    user text not null,
    model text not null,
    status text not null,
    requests integer not null,
    prompt_tokens integer not null,
    completion_tokens integer not null,
    cost_nanos integer not null,
    saved_nanos integer not null,
    unpriced integer not null,
    primary key (day, project, key_id, user, model, status)
) strict, without rowid;

-- Sums whose last request was removed, for their deletion.
create index usage_users_empty on usage_users (day) where requests = 0;

insert into usage_users (day, project, key_id, user, model, status, requests, prompt_tokens, completion_tokens,
                         cost_nanos, saved_nanos, unpriced)
select day, project, key_id, user, model, status, sum(requests), sum(prompt_tokens), sum(completion_tokens),
       sum(cost_nanos), sum(saved_nanos), sum(unpriced)
from usage_days group by 1, 2, 3, 4, 5, 6;
