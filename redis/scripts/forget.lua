-- Ends a node's lease, if it is still the one of that life.
-- KEYS: the lease. ARGV: the boot. Returns 1 when there is no lease now, 0 when it is another's.
local held = redis.call('GET', KEYS[1])
if held and string.match(held, '"boot":(%d+)') ~= ARGV[1] then
  return 0
end
redis.call('DEL', KEYS[1])
return 1
