#!lua flags=allow-oom
-- Lets go of a vnode: all is written, and the next owner need not wait.
-- KEYS: epoch, released. ARGV: the epoch.
-- Returns released, or fenced and the newer epoch.
local wanted = tonumber(ARGV[1])
local current = tonumber(redis.call('GET', KEYS[1]) or '-1')
if not current then
  return redis.error_reply('ERR the vnode has a bad epoch')
end
if current > wanted then
  return { 'fenced', tostring(current) }
end
if current < wanted then
  redis.call('SET', KEYS[1], ARGV[1])
end
redis.call('SET', KEYS[2], ARGV[1])
return { 'released' }
