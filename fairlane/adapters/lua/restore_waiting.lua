-- The log has this request in its lane, or bound to a slot. Reference model: policy/admission.py.
-- KEYS: 1 request identity, 2 idempotency key, 3 tenant figures, last the guard
-- ARGV: 1 request id, 2 idempotency key, 3 fingerprint, 4 source, 5 hold, 6 dispatched ('1' or '0'), 7 ttl seconds,
--       last what the guard must hold
if redis.call('GET', KEYS[#KEYS]) ~= ARGV[#ARGV] then return redis.error_reply('EMPTIED') end
local state = redis.call('HGET', KEYS[1], 's')
if not state then
  state = 'q'
  -- First, for it alone can fail (beyond 64 bits): nothing may be changed by then.
  redis.call('HINCRBY', KEYS[3], 'held', ARGV[5])
  redis.call('HSET', KEYS[1], 'fp', ARGV[3], 'src', ARGV[4], 'out', 'admitted', 's', state, 'i', ARGV[2], 'h', ARGV[5])
  redis.call('EXPIRE', KEYS[1], ARGV[7])
  redis.call('HINCRBY', KEYS[3], 'u', 1)
  if redis.call('EXISTS', KEYS[2]) == 0 then
    redis.call('HSET', KEYS[2], 'fp', ARGV[3], 'o', ARGV[1])
    redis.call('EXPIRE', KEYS[2], ARGV[7])
  end
end
if state == 'q' and ARGV[6] == '1' then
  redis.call('HSET', KEYS[1], 's', 'd')
  redis.call('HINCRBY', KEYS[3], 'u', -1)
  redis.call('HINCRBY', KEYS[3], 'fl', 1)
end
return 1
