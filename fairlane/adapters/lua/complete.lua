-- The store knows everything now. KEYS: 1 generation, 2 claim. ARGV: 1 token, which becomes the generation.
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1])
redis.call('DEL', KEYS[2])
return 1
