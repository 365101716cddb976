-- Sums by UTC day and model: overviews of a month read a tenth of what usage_hours and usage_keys have.
create table usage_models (
    day integer not null,
    project text not null,
    model text not null,
    status text not null,
    requests integer not null,
    prompt_tokens integer not null,
    completion_tokens integer not null,
    cost_nanos integer not null,
    saved_nanos integer not null,
    unpriced integer not null,
    primary key (day, project, model, status)
) strict, without rowid;

-- Sums whose last request was removed, for their deletion.
create index usage_models_empty on usage_models (day) where requests = 0;

-- The sums by hour are complete.
insert into usage_models (day, project, model, status, requests, prompt_tokens, completion_tokens, cost_nanos,
                          saved_nanos, unpriced)
select hour / 86400 * 86400, project, model, status, sum(requests), sum(prompt_tokens), sum(completion_tokens),
       sum(cost_nanos), sum(saved_nanos), sum(unpriced)
from usage_hours group by 1, 2, 3, 4;
