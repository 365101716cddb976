-- name: give
-- A value, unless there is one already.
insert into installation (name, value) values (:name, :value) on conflict (name) do nothing;

-- name: value
-- A stored value.
select value from installation where name = :name;
