-- What tells after a lost connection whether a commit that was not answered took effect.

-- The number that a process gave to its last transaction of the ledger.
alter table workers add column batch bigint not null default 0;
