-- Forget followers whose results are in the log. KEYS: 1 idempotency key. ARGV: follower request ids.
for i = 1, #ARGV do redis.call('HDEL', KEYS[1], 'f:' .. ARGV[i]) end
if redis.call('HGET', KEYS[1], 'drop') then
  for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
    if string.sub(field, 1, 2) == 'f:' then return 0 end
  end
  redis.call('DEL', KEYS[1])
end
return 1
