-- Sign-ins to the dashboard.

-- name: add
-- A new session.
insert into ui_sessions (id_hash, secret_hash, master_mark, secure, created_at, seen_at)
values (:id_hash, :secret_hash, :master_mark, :secure, :created_at, :seen_at);

-- name: trim
-- Keeps the sessions of a credential that were used last; all sessions of the operator count as one credential.
delete from ui_sessions
where coalesce(secret_hash, '') = :credential and id_hash not in (
    select id_hash from ui_sessions where coalesce(secret_hash, '') = :credential
    order by seen_at desc, id_hash limit :most
);

-- name: find
-- One session.
select secret_hash, master_mark, secure, created_at, seen_at from ui_sessions where id_hash = :id_hash;

-- name: seen
-- A session was used.
update ui_sessions set seen_at = :seen_at where id_hash = :id_hash;

-- name: end
-- Signed out.
delete from ui_sessions where id_hash = :id_hash;

-- name: forget
-- Sessions that were not used, or are too old.
delete from ui_sessions where seen_at < :seen_before or created_at < :created_before;
