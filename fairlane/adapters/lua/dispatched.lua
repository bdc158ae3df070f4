-- A request left its lane. KEYS: 1 request identity, 2 tenant figures, last the guard. ARGV: last what it must hold.
if redis.call('GET', KEYS[#KEYS]) ~= ARGV[#ARGV] then return redis.error_reply('EMPTIED') end
if redis.call('HGET', KEYS[1], 's') == 'q' then
  redis.call('HSET', KEYS[1], 's', 'd')
  redis.call('HINCRBY', KEYS[2], 'u', -1)
  redis.call('HINCRBY', KEYS[2], 'fl', 1)
  return 1
end
return 0
