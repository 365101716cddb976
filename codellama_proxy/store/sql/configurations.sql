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
