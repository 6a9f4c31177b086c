-- Keeps records of a vnode's users, unless a newer epoch has the vnode. A record never replaces
-- one of a higher version: a request that was given up on may still arrive after a later one.
-- KEYS: epoch, users, seen. ARGV: the epoch, then for each record user, score, bytes.
-- Returns written and how many were older than what is there, or fenced and the newer epoch.
local wanted = tonumber(ARGV[1])
local current = tonumber(redis.call('GET', KEYS[1]) or '-1')
if not current then
  return redis.error_reply('ERR the vnode has a bad epoch')
end
if current > wanted then
  return { 'fenced', tostring(current) }
end

-- The version in a record of encoding 1: a varint from the third byte on, below 2^53. Bytes of
-- another encoding are older than any.
local function version(bytes)
  if not bytes or string.byte(bytes, 1) ~= 1 then
    return -1
  end
  local value, scale = 0, 1
  for at = 3, 12 do
    local byte = string.byte(bytes, at)
    if not byte then
      return -1
    end
    if byte < 128 then
      return value + byte * scale
    end
    value = value + (byte - 128) * scale
    scale = scale * 128
  end
  return -1
end

if current < wanted then
  redis.call('SET', KEYS[1], ARGV[1])
end
local users = {}
for at = 2, #ARGV, 3 do
  users[#users + 1] = ARGV[at]
end
if #users == 0 then
  return { 'written', 0 }
end
local there = redis.call('HMGET', KEYS[2], unpack(users))
local newest = {}
for at = 1, #users do
  newest[users[at]] = version(there[at])
end
local records, scores, stale = {}, {}, 0
for at = 2, #ARGV, 3 do
  local user, new = ARGV[at], version(ARGV[at + 2])
  if new < newest[user] then
    stale = stale + 1
  else
    newest[user] = new
    records[#records + 1] = user
    records[#records + 1] = ARGV[at + 2]
    scores[#scores + 1] = ARGV[at + 1]
    scores[#scores + 1] = user
  end
end
if #records > 0 then
  redis.call('HSET', KEYS[2], unpack(records))
  redis.call('ZADD', KEYS[3], unpack(scores))
end
return { 'written', stale }
