#!lua flags=allow-oom
-- Takes a vnode for an epoch, unless a newer one has it or its owner has not let go of it yet.
-- KEYS: epoch, released. ARGV: the epoch; from which epoch on an owner
-- that has not let go is not waited for.
-- Returns claimed and 1 when the owner right before it had let go of it, held and the epoch that has it, or
-- fenced and the newer epoch.
local wanted = tonumber(ARGV[1])
local released = false
local held = redis.call('GET', KEYS[1])
if held then
  local current = tonumber(held)
  if not current then
    return redis.error_reply('ERR the vnode has a bad epoch')
  end
  if current > wanted then
    return { 'fenced', held }
  end
  if current < wanted then
    released = redis.call('GET', KEYS[2]) == held
    if not released and current < tonumber(ARGV[2]) then
      return { 'held', held }
    end
  end
end
redis.call('SET', KEYS[1], ARGV[1])
redis.call('DEL', KEYS[2])
-- An owner in between may have served without having taken it.
local whole = released and tonumber(held) + 1 == wanted
return { 'claimed', whole and 1 or 0 }
