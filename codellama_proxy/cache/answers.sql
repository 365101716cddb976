-- name: find
-- One cached answer.
select scope, deployment, dropped, completion, created_at, expires_at from answers where key = ?;

-- name: put
-- Insert or replace answers.
insert or replace into answers (key, scope, project, model, deployment, dropped, completion, created_at, expires_at)
values {rows};

-- name: drop
-- Delete answers.
delete from answers where key in (values {rows});

-- name: keys
-- All keys, the oldest answer's first.
select key from answers order by created_at;

-- name: expired
-- Delete a batch of expired answers.
delete from answers where key in (select key from answers where expires_at <= ? limit ?) returning key;

-- name: stats
-- Statistics by project and model.
select project, model, count(*), sum(length(completion)), min(created_at), max(expires_at), count(vectors.key)
from answers left join vectors using (key)
where (:project is null or project = :project) and (:model is null or model = :model)
group by 1, 2 order by 1, 2;

-- name: purge
-- Delete a batch of the answers of a project, a model, or all.
delete from answers where key in (
    select key from answers
    where (:project is null or project = :project) and (:model is null or model = :model) limit :most
);

-- name: put_vector
-- Store the embedding of a request; a bucket holds requests that differ only in their last turn.
insert or replace into vectors (key, bucket, signs, numbers)
select key, ?, ?, ? from answers where key = ?;

-- name: signs
-- The newest unexpired entries of a bucket.
select vectors.key, signs from vectors join answers using (key)
where bucket = ? and expires_at > ? order by vectors.seq desc limit ?;

-- name: numbers
-- One complete vector.
select numbers from vectors where key = ?;
