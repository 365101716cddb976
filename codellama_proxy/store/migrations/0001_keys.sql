-- A key is who may call; its secrets are how it proves that. Two secrets are valid while a rotation overlaps.

create table keys (
    key_id text not null primary key,
    project text not null,
    name text,
    created_at real not null,
    expires_at real,
    blocked integer not null default 0 check (blocked in (0, 1)),
    models text,       -- JSON array of names and wildcards; null: whatever the project may use
    limits text not null,   -- JSON object: only the fields that were given, money in nano-USD
    metadata text not null  -- JSON object
) strict;

create index keys_by_project on keys (project, created_at);

create table key_secrets (
    hash text not null primary key,   -- SHA-256 of the secret, in hex
    key_id text not null references keys (key_id) on delete cascade,
    prefix text not null,   -- the first characters of the secret, for people
    created_at real not null,
    expires_at real         -- null: as long as the key
) strict;

create index key_secrets_by_key on key_secrets (key_id);
