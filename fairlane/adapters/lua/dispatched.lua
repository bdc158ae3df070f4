-- A request left its lane. KEYS: 1 request identity, 2 tenant figures.
if redis.call('HGET', KEYS[1], 's') == 'q' then
  redis.call('HSET', KEYS[1], 's', 'd')
  redis.call('HINCRBY', KEYS[2], 'u', -1)
  redis.call('HINCRBY', KEYS[2], 'fl', 1)
  return 1
end
return 0
