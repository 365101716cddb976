-- The cache's own file. It holds nothing that cannot be asked for again: when anything about it is wrong or of
-- another version, it is thrown away and made anew.

create table answers (
    key blob not null primary key,
    scope text not null,       -- who shares it, `kind:name`; also hashed into the key
    project text not null,     -- who asked
    model text not null,       -- the public name that answered
    deployment text not null,
    dropped text not null,     -- JSON array
    completion blob not null,  -- JSON
    created_at real not null,
    expires_at real not null
) strict;

create index answers_created on answers (created_at);
create index answers_expires on answers (expires_at);

create table vectors (
    seq integer primary key,
    key blob not null unique references answers (key) on delete cascade,
    bucket blob not null,      -- the digest of everything but the last turn
    signs blob not null,       -- of its numbers, a bit each
    numbers blob not null      -- little-endian float32, of length one
) strict;

create index vectors_bucket on vectors (bucket, seq);
