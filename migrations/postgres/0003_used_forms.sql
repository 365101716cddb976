-- Tokens of forms whose answer showed a secret: one that is sent again changes nothing, whichever process receives it.
create table used_forms (
    token text collate "C" not null primary key,
    used_at double precision not null
);
