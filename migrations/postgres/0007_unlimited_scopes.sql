-- Since when requests come that no configuration limits in a scope; null while one does. Such rows are removed after a day.
alter table scopes add column unlimited_since double precision;
