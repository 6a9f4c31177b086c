-- Ends a leadership. KEYS: the leader. ARGV: id and token. Returns how many ended.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
return redis.call('DEL', KEYS[1])
