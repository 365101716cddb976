-- The ledger. `seq` orders rows: clocks jump, sequences do not. Every index ends with it by itself,
-- because it is the table's own key.

create table requests (
    seq integer primary key,
    request_id text not null unique,
    created_at real not null,
    project text not null,
    key_id text,
    user text,
    endpoint text not null,
    model_requested text,
    model text,
    deployment text,
    upstream_model text,
    stream integer not null,
    status text not null check (status in ('held', 'ok', 'error', 'cancelled')),
    http_status integer,
    attempts text,
    prompt_tokens integer,
    completion_tokens integer,
    cached_tokens integer,
    cache_write_tokens integer,
    reasoning_tokens integer,
    cost_nanos integer check (cost_nanos >= 0),
    saved_nanos integer,
    basis text,
    cache text,
    total_ms real,
    config text,
    -- What the request may cost at most, and what a crash costs if that is not known.
    hold_nanos integer not null check (hold_nanos >= 0),
    estimate_nanos integer,
    estimate_tokens integer not null
) strict;

-- Every index is paid for by every request, so there are only those that admission needs: running requests are
-- counted by scope in the first, a new budget is summed up from the others. Reports may read the whole table.
create index requests_held on requests (project, key_id, user) where status = 'held';
create index requests_project on requests (project);
create index requests_key on requests (key_id) where key_id is not null;
create index requests_user on requests (user, project) where user is not null;

create table request_contents (
    request_id text not null primary key,
    content text not null
) strict, without rowid;

-- One row for each limited scope, `kind:name`. Levels are null while there is no rate limit; the window and
-- what is spent in it are null while there never was a budget: rows of `requests` tell it when there is one.
create table scopes (
    scope text not null primary key,
    rpm_level real,
    tpm_level real,
    rated_at real not null,
    budget_duration text,
    window_start real,
    window_end real,
    -- The window holds the requests from this sequence on, so a clock cannot move one across its edge.
    first_seq integer,
    spent_nanos integer not null,
    held_nanos integer not null,
    -- The part of spent_nanos whose rows were folded into `totals`.
    folded_nanos integer not null
) strict, without rowid;

-- Settled requests past their retention, by day, so that sums stay exact. Empty text stands for none.
create table totals (
    day text not null,
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
