-- A key is who may call; its secrets are how it proves that. Two secrets are valid while a rotation overlaps.

create table keys (
    key_id text not null primary key,
    project text not null,
    name text,
    created_at real not null,
    expires_at real,
    blocked integer not null default 0 check (blocked in (0, 1)),
    models text,            -- JSON array of names and wildcards; null: whatever the project may use
    limits text not null,   -- JSON object: only the fields that were given, money in nano-USD
    metadata text not null  -- JSON object
) strict;

create index keys_by_project on keys (project, created_at);

create table key_secrets (
    hash text not null primary key,  -- SHA-256 of the secret, in hex
    key_id text not null references keys (key_id) on delete cascade,
    prefix text not null,            -- the first characters of the secret, for people
    expires_at real                  -- null: the current one, valid as long as the key
) strict;

create unique index key_secrets_current on key_secrets (key_id) where expires_at is null;
create index key_secrets_by_key on key_secrets (key_id);

-- A key as it is read, with the prefix of its current secret.
create view key_cards as
select
    k.key_id, k.project, k.name, s.prefix, k.created_at, k.expires_at, k.blocked, k.models, k.limits, k.metadata
from keys k
join key_secrets s on s.key_id = k.key_id and s.expires_at is null;
