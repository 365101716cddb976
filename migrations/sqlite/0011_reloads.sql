-- Configurations that were read: at a start, or when the file changed. The last 100 are kept; no secrets.
create table reloads (
    seq integer primary key,
    at real not null,
    digest text not null,  -- of the configuration in force then
    ok integer not null,   -- 0: the file was refused
    lines text not null    -- JSON list: what changed, or the problems
) strict;
