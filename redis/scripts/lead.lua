-- Prolongs a leadership. KEYS: the leader. ARGV: id and token, the TTL (ms).
-- Returns 1, or 0 when it has ended.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
