-- name: keep
-- Remember this configuration instead of the one before.
insert into configurations (id, digest, text, loaded_at) values (1, :digest, :text, :loaded_at)
on conflict (id) do update set digest = excluded.digest, text = excluded.text, loaded_at = excluded.loaded_at;

-- name: last_good
-- The configuration that was good last.
select text, digest, loaded_at from configurations;

-- name: forget
-- Nothing is kept any more.
delete from configurations;
