-- name: keep
-- Replace the kept configuration.
insert into configurations (id, digest, text, loaded_at) values (1, :digest, :text, :loaded_at)
on conflict (id) do update set digest = excluded.digest, text = excluded.text, loaded_at = excluded.loaded_at;

-- name: last_good
-- The last good configuration.
select text, digest, loaded_at from configurations;

-- name: forget
-- Remove the kept configuration.
delete from configurations;

-- name: record_reload
-- Add an entry to the history of reloads, unless another process has just added it.
insert into reloads (at, digest, ok, lines)
select :at, :digest, :ok, :lines
where not exists (select 1 from reloads where digest = :digest and ok = :ok and lines = :lines and at > :since);

-- name: forget_reloads
-- Remove all but the last entries.
delete from reloads where seq <= (select max(seq) from reloads) - :kept;

-- name: reloads
-- The history of reloads, newest first.
select at, digest, ok, lines from reloads order by seq desc;
