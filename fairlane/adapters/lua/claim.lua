-- Get or keep the right to fill the store. KEYS: 1 generation, 2 claim. ARGV: 1 token, 2 ttl milliseconds.
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
local owner = redis.call('GET', KEYS[2])
if owner and owner ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
return 1
