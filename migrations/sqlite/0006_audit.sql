-- Who changed which key, when and how. Nothing is ever removed; `seq` is the order, whatever the clock said.
create table audit (
    seq integer primary key,
    created_at real not null,
    actor text not null,    -- 'master', 'cli', or 'ui:' and a session
    action text not null check (action in ('create', 'update', 'block', 'unblock', 'rotate', 'delete')),
    key_id text not null,
    project text not null,
    changes text not null   -- JSON object: field -> [before, after]; no secrets
) strict;

create index audit_time on audit (created_at);
