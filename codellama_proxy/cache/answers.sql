-- name: find
-- One cached answer.
select scope, deployment, dropped, completion, created_at, expires_at from answers where id = ? and key = ?;

-- name: next
-- The ID of the next answer.
select coalesce(max(id), 0) + 1 from answers;

-- name: put
-- Insert answers.
insert into answers (id, key, scope, project, model, deployment, dropped, completion, created_at, expires_at)
values {rows};

-- name: drop
-- Delete answers.
delete from answers where id in (values {rows});

-- name: keys
-- All keys and the IDs of their answers, the oldest first.
select key, id from answers order by id;

-- name: expired
-- Delete a batch of expired answers.
delete from answers where id in (select id from answers where expires_at <= ? limit ?) returning key;

-- name: stats
-- Statistics by project and model.
select project, model, count(*), sum(length(completion)), min(created_at), max(expires_at), count(answer)
from answers left join vectors on answer = id
where (:project is null or project = :project) and (:model is null or model = :model)
group by 1, 2 order by 1, 2;

-- name: purge
-- Delete a batch of the answers of a project, a model, or all.
delete from answers where id in (
    select id from answers
    where (:project is null or project = :project) and (:model is null or model = :model) limit :most
);

-- name: put_vector
-- Store the embedding of a request; a bucket holds requests that differ only in their last turn.
insert or replace into vectors (answer, key, bucket, signs, numbers)
select id, key, ?, ?, ? from answers where id = ? and key = ?;

-- name: signs
-- The newest unexpired entries of a bucket.
select vectors.key, signs from vectors join answers on answer = id
where bucket = ? and expires_at > ? order by vectors.seq desc limit ?;

-- name: numbers
-- One complete vector.
select numbers from vectors where key = ?;
