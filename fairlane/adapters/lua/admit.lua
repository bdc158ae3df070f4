-- Decide one request atomically. Reference model: policy/admission.py, held equal by a contract test.
-- KEYS: 1 request identity, 2 idempotency key, 3 tenant figures, last the guard
-- ARGV: 1 fingerprint, 2 source, 3 request id, 4 hold, 5 max undispatched, 6 ttl seconds,
--       7 reject code or '', 8 envelope, 9 idempotency key, last what the guard must hold
-- Returns {outcome, undispatched, held, spent, answer, owner}
if redis.call('GET', KEYS[#KEYS]) ~= ARGV[#ARGV] then return redis.error_reply('EMPTIED') end
local fp, src, rid, hold = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local known = redis.call('HMGET', KEYS[1], 'fp', 'src', 'out', 's', 'a')
if known[4] then
  if known[1] and known[1] ~= fp then return {'request_id_reused', 0, '0', '0', '', ''} end
  local answer = known[5] or ''
  if known[2] ~= src then
    if answer ~= '' then return {'replay', 0, '0', '0', answer, rid} end
    return {'duplicate', 0, '0', '0', '', ''}
  end
  local out, state = known[3], known[4]
  if (out == 'admitted' and state ~= 'q') or (out == 'joined' and state == 'x') then
    return {'duplicate', 0, '0', '0', '', ''}
  end
  local now = redis.call('HMGET', KEYS[3], 'u', 'held', 'spent')
  return {out, tonumber(now[1] or '0'), now[2] or '0', now[3] or '0', answer, redis.call('HGET', KEYS[2], 'o') or ''}
end

local function remember(out, state, ...)
  redis.call('HSET', KEYS[1], 'fp', fp, 'src', src, 'out', out, 's', state, 'i', ARGV[9], ...)
  redis.call('EXPIRE', KEYS[1], ARGV[6])
end

if ARGV[7] ~= '' then
  remember('rejected', 'p')
  return {'rejected', 0, '0', '0', '', ''}
end

local key = redis.call('HMGET', KEYS[2], 'fp', 'o', 'a')
if key[1] then
  if key[1] ~= fp then
    remember('idempotency_mismatch', 'p')
    return {'idempotency_mismatch', 0, '0', '0', '', key[2]}
  end
  if key[3] then
    remember('replay', 'p', 'a', key[3])
    return {'replay', 0, '0', '0', key[3], key[2]}
  end
  redis.call('HSET', KEYS[2], 'f:' .. rid, ARGV[8])
  remember('joined', 'j')
  return {'joined', 0, '0', '0', '', key[2]}
end

local now = redis.call('HMGET', KEYS[3], 'u', 'held', 'spent')
local undispatched = tonumber(now[1] or '0')
if undispatched >= tonumber(ARGV[5]) then
  remember('queue_full', 'p')
  return {'queue_full', undispatched, now[2] or '0', now[3] or '0', '', ''}
end
-- HINCRBY adds in 64-bit integers; amounts never pass through a Lua double.
redis.call('HINCRBY', KEYS[3], 'held', hold)
redis.call('HINCRBY', KEYS[3], 'u', 1)
remember('admitted', 'q', 'h', hold)
redis.call('HSET', KEYS[2], 'fp', fp, 'o', rid)
redis.call('EXPIRE', KEYS[2], ARGV[6])
return {'admitted', undispatched + 1, redis.call('HGET', KEYS[3], 'held'), now[3] or '0', '', ''}
