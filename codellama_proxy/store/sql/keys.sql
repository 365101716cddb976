-- Keys and their secrets. A "card" is a key with the prefix of its current secret.

-- name: insert_key
-- A new key.
insert into keys (key_id, project, name, created_at, expires_at, blocked, models, limits, metadata)
values (:key_id, :project, :name, :created_at, :expires_at, :blocked, :models, :limits, :metadata);

-- name: insert_secret
-- A new current secret, after the old one was ended or deleted.
insert into key_secrets (hash, key_id, prefix, expires_at) values (:hash, :key_id, :prefix, null);

-- name: save_key
-- Everything about a key that can change.
update keys
set project = :project, name = :name, expires_at = :expires_at, blocked = :blocked,
    models = :models, limits = :limits, metadata = :metadata
where key_id = :key_id;

-- name: card_by_id
-- One key.
select key_id, project, name, prefix, created_at, expires_at, blocked, models, limits, metadata
from key_cards
where key_id = :key_id;

-- name: card_by_hash
-- The key of a secret, and when that secret expires. Only a rotated one takes another search, for the prefix.
select
    k.key_id, k.project, k.name,
    case when s.expires_at is null then s.prefix
         else (select prefix from key_secrets where key_id = k.key_id and expires_at is null) end,
    k.created_at, k.expires_at, k.blocked, k.models, k.limits, k.metadata, s.expires_at
from key_secrets s
join keys k on k.key_id = s.key_id
where s.hash = :hash;

-- name: cards_by_prefix
-- Keys with a current or rotated secret that begins with a prefix; two are enough to see that it is ambiguous.
select key_id, project, name, prefix, created_at, expires_at, blocked, models, limits, metadata
from key_cards
where key_id in (select key_id from key_secrets where substr(prefix, 1, length(:prefix)) = :prefix)
limit 2;

-- name: page_of_cards
-- Keys, the newest first.
select key_id, project, name, prefix, created_at, expires_at, blocked, models, limits, metadata
from key_cards
where cast(:project as text) is null or project = :project
order by created_at desc, key_id
limit :size offset :skip;

-- name: some_cards
-- Keys by their ids.
select key_id, project, name, prefix, created_at, expires_at, blocked, models, limits, metadata
from key_cards
where key_id in ({ids});

-- name: projects
-- The projects that have keys.
select distinct project from keys order by project limit :most;

-- name: count_keys
-- How many keys there are.
select count(*) from keys where cast(:project as text) is null or project = :project;

-- name: delete_rotated_secrets
-- Delete rotated secrets: at most two secrets of a key are valid.
delete from key_secrets where key_id = :key_id and expires_at is not null;

-- name: end_current_secret
-- Make the current secret expire.
update key_secrets set expires_at = :expires_at where key_id = :key_id and expires_at is null;

-- name: delete_current_secret
-- Delete the current secret.
delete from key_secrets where key_id = :key_id and expires_at is null;

-- name: delete_key
-- Delete a key and its secrets; its rows stay in the ledger.
delete from keys where key_id = :key_id;
