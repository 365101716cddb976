-- Pages of the requests of one user, in the order of sequences. The partitions of later days have it from the beginning.
-- The server adds it to earlier ones, a day at a time once it has ended, and then removes `settled_user`, which has the
-- project in between.
create index settled_user_seq on only settled ("user", seq) where "user" is not null;
