-- Book one terminal result once. Reference model: policy/admission.py.
-- KEYS: 1 request identity, 2 idempotency key, 3 tenant figures, last the guard
-- ARGV: 1 request id, 2 cost, 3 answer position, 4 replayable ('1' or '0'), 5 ttl seconds,
--       6 idempotency key, 7 what the names of idempotency keys begin with; for a request not known here:
--       8 fingerprint or '', 9 source, 10 outcome, 11 admitted ('1' or '0'); last what the guard must hold
-- Returns {first, released, idempotency key, follower id, envelope, follower id, envelope, ...}
if redis.call('GET', KEYS[#KEYS]) ~= ARGV[#ARGV] then return redis.error_reply('EMPTIED') end
local rid, cost, answer = ARGV[1], ARGV[2], ARGV[3]
local known = redis.call('HMGET', KEYS[1], 's', 'h', 'i')
local state = known[1]
if state ~= 'x' and cost ~= '0' then
  -- First of all, for it alone can fail: what was changed before a script failed would stay, and change again.
  local booked = redis.pcall('HINCRBY', KEYS[3], 'spent', cost)
  if type(booked) == 'table' and booked.err then
    if not string.find(booked.err, 'overflow', 1, true) then return booked end
    -- Beyond 64 bits a tenant's sum stops, as in the reference model (SPENT_MAX).
    redis.call('HSET', KEYS[3], 'spent', '9223372036854775807')
  end
end
if not state and ARGV[8] ~= '' then
  state = 'p'
  redis.call('HSET', KEYS[1], 's', state, 'fp', ARGV[8], 'src', ARGV[9], 'out', ARGV[10], 'i', ARGV[6])
  if ARGV[11] == '1' and ARGV[4] == '1' and redis.call('EXISTS', KEYS[2]) == 0 then
    redis.call('HSET', KEYS[2], 'fp', ARGV[8], 'o', rid)
  end
end
-- A stage that could not read the request does not know its key: the one it was admitted with counts.
local idempotency_key = known[3] or ARGV[6]
local key = idempotency_key == ARGV[6] and KEYS[2] or ARGV[7] .. idempotency_key
local reply = {0, '0', idempotency_key}
if state ~= 'x' then
  reply[1] = 1
  if state == 'q' or state == 'd' then
    reply[2] = known[2]
    -- '-0' is not an integer to Redis.
    if known[2] ~= '0' then redis.call('HINCRBY', KEYS[3], 'held', '-' .. known[2]) end
    redis.call('HINCRBY', KEYS[3], state == 'q' and 'u' or 'fl', -1)
  end
  -- A request unknown here and without cost was refused before it had an identity.
  if state or cost ~= '0' then
    redis.call('HSET', KEYS[1], 's', 'x', 'a', answer)
    redis.call('HDEL', KEYS[1], 'h')
    redis.call('EXPIRE', KEYS[1], ARGV[5])
  end
end
-- It may be a follower itself: then this is its answer.
redis.call('HDEL', key, 'f:' .. rid)
if redis.call('HGET', key, 'o') == rid then
  local fields = redis.call('HGETALL', key)
  for i = 1, #fields, 2 do
    if string.sub(fields[i], 1, 2) == 'f:' then
      reply[#reply + 1] = string.sub(fields[i], 3)
      reply[#reply + 1] = fields[i + 1]
    end
  end
  if ARGV[4] == '1' then
    redis.call('HSETNX', key, 'a', answer)
    redis.call('EXPIRE', key, ARGV[5])
  elseif #reply == 3 then
    redis.call('DEL', key)
  else
    redis.call('HSET', key, 'a', answer, 'drop', '1')
  end
end
return reply
