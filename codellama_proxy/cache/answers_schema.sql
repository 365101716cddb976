-- The cache's own file. It holds nothing that cannot be asked for again: when anything about it is wrong or of
-- another version, it is thrown away and made anew.

create table answers (
    id integer primary key,    -- in the order in which answers are written, so that few pages change
    key blob not null,         -- not indexed: a server knows the ids of all keys
    scope text not null,       -- who shares it, `kind:name`; also hashed into the key
    project text not null,     -- who asked
    model text not null,       -- the public name that answered
    deployment text not null,
    dropped text not null,     -- JSON array
    completion blob not null,  -- JSON
    created_at real not null,
    expires_at real not null
) strict;

create index answers_expires on answers (expires_at);

create table vectors (
    seq integer primary key,
    answer integer not null unique references answers (id) on delete cascade,
    key blob not null unique,
    bucket blob not null,      -- the digest of everything but the last turn
    signs blob not null,       -- of its numbers, a bit each
    numbers blob not null      -- little-endian float32, of length one
) strict;

create index vectors_bucket on vectors (bucket, seq);
