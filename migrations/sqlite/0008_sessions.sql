-- The client's ids of a session and of an agent in it. Daily totals are kept without them: there is no bound on how many
-- there are, and sums over all of them stay exact.

alter table requests add column session text;
alter table requests add column agent text;

-- For the cost of one session. Only coding agents name one, so other requests do not pay for it.
create index requests_session on requests (session) where session is not null;
