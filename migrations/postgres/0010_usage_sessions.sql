-- breaks: 0.1.0
-- Older processes would not add to these sums.

-- Sums by hour with keys and users, and with sessions and agents: for the hours at both ends of a time range.
create table usage_user_hours (
    hour bigint not null,
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
    primary key (hour, project, key_id, "user", model, status)
);

create table usage_session_hours (
    hour bigint not null,
    project text collate "C" not null,
    session text collate "C" not null,
    agent text collate "C" not null,
    requests bigint not null,
    prompt_tokens bigint not null,
    completion_tokens bigint not null,
    cost_nanos bigint not null,
    saved_nanos bigint not null,
    unpriced bigint not null,
    primary key (hour, project, session, agent)
);

-- One row: the requests up to this sequence are not in these two yet. The server adds them in small batches, newest
-- first, until it is 0.
create table hours_filled_from (seq bigint not null);

insert into hours_filled_from (seq) select upto from rolled_up;

-- Sums by UTC day, session and agent, without the keys, users and models of usage_days.
create table usage_sessions (
    day bigint not null,
    project text collate "C" not null,
    session text collate "C" not null,
    agent text collate "C" not null,
    requests bigint not null,
    prompt_tokens bigint not null,
    completion_tokens bigint not null,
    cost_nanos bigint not null,
    saved_nanos bigint not null,
    unpriced bigint not null,
    primary key (day, project, session, agent)
);

insert into usage_sessions (day, project, session, agent, requests, prompt_tokens, completion_tokens, cost_nanos,
                            saved_nanos, unpriced)
select day, project, session, agent, sum(requests), sum(prompt_tokens), sum(completion_tokens), sum(cost_nanos),
       sum(saved_nanos), sum(unpriced)
from usage_days group by 1, 2, 3, 4;

-- Sums whose last request was removed, for their deletion.
create index usage_user_hours_empty on usage_user_hours (hour) where requests = 0;
create index usage_session_hours_empty on usage_session_hours (hour) where requests = 0;
create index usage_sessions_empty on usage_sessions (day) where requests = 0;
