-- Sums of one agent, and the days of its requests.
create index usage_days_agent on usage_days (agent, day) where agent <> '';
