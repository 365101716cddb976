-- Tokens of forms whose answer showed a secret: one that is sent again changes nothing, whichever process receives it.
create table used_forms (
    token text not null primary key,
    used_at real not null
) strict, without rowid;
