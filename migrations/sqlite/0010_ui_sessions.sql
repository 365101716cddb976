-- Sign-ins to the dashboard. A cookie has the id of one; only its SHA-256 is here.

create table ui_sessions (
    id_hash text not null primary key,
    -- SHA-256 of the virtual key's secret; null for the operator.
    secret_hash text,
    -- HMAC of the master key under the id, which is not here: tells whether the master key is still the same one.
    master_mark text,
    -- Whether the browser came by https.
    secure integer not null,
    created_at real not null,
    seen_at real not null,
    check ((secret_hash is null) <> (master_mark is null))
) strict, without rowid;
