-- name: find
-- One kept answer.
select scope, deployment, dropped, completion, created_at, expires_at from answers where key = ?;

-- name: put
-- Keep an answer, or a newer one in its place.
insert or replace into answers (key, scope, project, model, deployment, dropped, completion, created_at, expires_at)
values (?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: drop
-- Forget one answer.
delete from answers where key = ?;

-- name: keys
-- Every key there is.
select key from answers;

-- name: expired
-- A few answers that are too old.
delete from answers where key in (select key from answers where expires_at <= ? limit ?) returning key;

-- name: oldest
-- A few of the oldest answers, when there are too many.
delete from answers where key in (select key from answers order by created_at limit ?) returning key;

-- name: stats
-- What is kept, by who asked and who answered.
select project, model, count(*), sum(length(completion)), min(created_at), max(expires_at), count(vectors.key)
from answers left join vectors using (key)
where (:project is null or project = :project) and (:model is null or model = :model)
group by 1, 2 order by 1, 2;

-- name: purge
-- A few of the answers of a project, or of a model, or all.
delete from answers where key in (
    select key from answers
    where (:project is null or project = :project) and (:model is null or model = :model) limit :most
);

-- name: put_vector
-- What an answer's request means, among those that differ from it only in their last turn.
insert or replace into vectors (key, bucket, signs, numbers)
select key, ?, ?, ? from answers where key = ?;

-- name: signs
-- The newest of a bucket, good ones only.
select vectors.key, signs from vectors join answers using (key)
where bucket = ? and expires_at > ? order by vectors.seq desc limit ?;

-- name: numbers
-- One vector whole.
select numbers from vectors where key = ?;
