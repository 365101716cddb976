-- name: use
-- Remembers a form; no row if it is known.
insert into used_forms (token, used_at) values (:token, :now) on conflict do nothing returning token;

-- name: forget
-- Removes forms that are too old to be sent again.
delete from used_forms where used_at < :before;
