-- What this installation was given once: random values that belong to its database.

create table installation (
    name text not null primary key,
    value blob not null
) strict;
