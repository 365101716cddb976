-- What tells after a lost connection whether a commit that was not answered took effect.

-- The number that a process gave to its last transaction of the ledger.
alter table workers add column batch bigint not null default 0;

-- Changes of keys and other settings, by a random number, kept for an hour. Numbers of transactions would not do: a server
-- that lost some in a failover uses them again.
create table changes_made (
    number bigint primary key,
    made_at double precision not null
);
