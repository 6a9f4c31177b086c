-- Forgets users of a vnode that are not connected and were last seen before a time.
-- KEYS: epoch, users, seen. ARGV: the epoch, the time (ms), how many users at most.
-- Returns trimmed and how many, or fenced and the newer epoch.
local current = tonumber(redis.call('GET', KEYS[1]) or '-1')
if not current then
  return redis.error_reply('ERR the vnode has a bad epoch')
end
if current > tonumber(ARGV[1]) then
  return { 'fenced', tostring(current) }
end
local users =
  redis.call('ZRANGE', KEYS[3], '-inf', '(' .. ARGV[2], 'BYSCORE', 'LIMIT', 0, ARGV[3])
if #users > 0 then
  redis.call('HDEL', KEYS[2], unpack(users))
  redis.call('ZREM', KEYS[3], unpack(users))
end
return { 'trimmed', #users }
