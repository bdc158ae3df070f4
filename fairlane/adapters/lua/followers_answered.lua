-- Forget followers whose results are in the log.
-- KEYS: 1 idempotency key, last the guard. ARGV: follower request ids, last what the guard must hold.
if redis.call('GET', KEYS[#KEYS]) ~= ARGV[#ARGV] then return redis.error_reply('EMPTIED') end
for i = 1, #ARGV - 1 do redis.call('HDEL', KEYS[1], 'f:' .. ARGV[i]) end
if redis.call('HGET', KEYS[1], 'drop') then
  for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
    if string.sub(field, 1, 2) == 'f:' then return 0 end
  end
  redis.call('DEL', KEYS[1])
end
return 1
