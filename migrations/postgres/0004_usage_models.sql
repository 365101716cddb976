-- breaks: 0.1.0
-- Older processes would not add to these sums.

-- Sums by UTC day and model: overviews of a month read a tenth of what usage_hours and usage_keys have.
create table usage_models (
    day bigint not null,
    project text collate "C" not null,
    model text collate "C" not null,
    status text collate "C" not null,
    requests bigint not null,
    prompt_tokens bigint not null,
    completion_tokens bigint not null,
    cost_nanos bigint not null,
    saved_nanos bigint not null,
    unpriced bigint not null,
    primary key (day, project, model, status)
);

-- Sums whose last request was removed, for their deletion.
create index usage_models_empty on usage_models (day) where requests = 0;

-- The sums by hour are complete.
insert into usage_models (day, project, model, status, requests, prompt_tokens, completion_tokens, cost_nanos,
                          saved_nanos, unpriced)
select hour / 86400 * 86400, project, model, status, sum(requests), sum(prompt_tokens), sum(completion_tokens),
       sum(cost_nanos), sum(saved_nanos), sum(unpriced)
from usage_hours group by 1, 2, 3, 4;
