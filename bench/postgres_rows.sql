-- name: day
-- Requests of one day of a month with %(total)s requests, numbered from %(first)s to before %(end)s.
insert into settled (
    request_id, seq, created_at, project, key_id, "user", session, agent, endpoint, model_requested, model, deployment,
    upstream_model, stream, status, http_status, attempts, prompt_tokens, completion_tokens, cached_tokens, cost_nanos,
    saved_nanos, basis, cache, first_ms, total_ms, config, hold_nanos, estimate_tokens)
select
    'req_' || lpad(to_hex(floor(at * 1000)::bigint), 11, '0') || lpad(to_hex(number), 13, '0'), number, at, project,
    key_id, 'user-' || place || '-' || floor(%(users)s * power(random(), 2)),
    case when number %% 2 = 0 then 'session-' || place || '-' || number / 10000 end,
    case when number %% 8 = 0 then 'agent-' || place || '-' || number / 10000 end,
    'chat/completions', model, model, model || '#1', model, 1, status,
    case status when 'ok' then 200 when 'error' then 502 else 499 end,
    '[{"deployment":"' || model || '#1","class":"' || status || '","status":200,"at":0.4,"ms":' || ms || '}]',
    20 + floor(random() * 3980), 1 + floor(random() * 899), 0,
    case when is_cached then 0 else 10000 + floor(random() * 1e8) end, 0, 'exact',
    case when is_cached then 'hit' else 'miss' end, ms / 3, ms, '0123456789ab', 0, 0
from (
    select number, %(start)s + %(seconds)s * number / %(total)s as at, callers.*,
        'model-' || (place + floor(3 * power(random(), 2))::bigint) %% %(models)s as model,
        case when luck < 0.97 then 'ok' when luck < 0.99 then 'error' else 'cancelled' end as status,
        random() < 0.1 as is_cached, round(exp(7 + 0.8 * (random() + random() + random() - 1.5) * 2)::numeric, 3) as ms
    from (
        select number, random() as luck, floor(%(keys)s * power(random(), 2))::bigint as drawn
        from generate_series(%(first)s::bigint, %(end)s::bigint - 1) as number
    ) as numbers join callers on place = drawn
) as drawn_requests order by number;
