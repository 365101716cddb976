-- The last configuration that was good, as it was written: `${NAME}` and `${file:...}` are not filled in.
create table configurations (
    id integer not null primary key check (id = 1),
    digest text not null,
    text blob not null,
    loaded_at real not null
) strict;
