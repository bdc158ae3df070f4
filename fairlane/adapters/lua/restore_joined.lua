-- The log says that this request waits for another's answer. Reference model: policy/admission.py.
-- KEYS: 1 request identity, 2 idempotency key, last the guard
-- ARGV: 1 request id, 2 idempotency key, 3 fingerprint, 4 source, 5 owner, 6 envelope, 7 ttl seconds,
--       last what the guard must hold
if redis.call('GET', KEYS[#KEYS]) ~= ARGV[#ARGV] then return redis.error_reply('EMPTIED') end
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('HSET', KEYS[1], 'fp', ARGV[3], 'src', ARGV[4], 'out', 'joined', 's', 'j', 'i', ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[7])
if redis.call('EXISTS', KEYS[2]) == 0 then redis.call('HSET', KEYS[2], 'fp', ARGV[3], 'o', ARGV[5]) end
redis.call('HSET', KEYS[2], 'f:' .. ARGV[1], ARGV[6])
redis.call('EXPIRE', KEYS[2], ARGV[7])
return 1
