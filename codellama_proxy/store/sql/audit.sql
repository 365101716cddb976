-- name: record
-- One change of a key, in the transaction that makes it.
insert into audit (created_at, actor, action, key_id, project, changes)
values (:created_at, :actor, :action, :key_id, :project, :changes);

-- name: page
-- Changes, the newest first.
select created_at, actor, action, key_id, project, changes from audit where {where} order by seq desc limit ? offset ?;

-- name: count
-- How many changes there are in all pages.
select count(*) from audit where {where};
