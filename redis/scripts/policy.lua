#!lua flags=allow-oom
-- Writes an entry of the policy, or takes it away, and notes under which version.
-- KEYS: the entries (hash), the changes (sorted set: field by version), the fields that were taken
-- away (list, newest first), the state (hash: version, floor, id), the fields of which there may be few (set).
-- ARGV: the field, its value (empty = none), the most entries, the most fields taken away that are
-- remembered, an id for a state that has none, the value that must be there (empty = any), the most fields of its kind (0 = any number).
-- Returns the version, 0 when nothing was there to be taken away, -1 when there are too many, -2 when there
-- are too many of its kind.
local most = tonumber(ARGV[7])
if ARGV[6] ~= '' and redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[6] then
  return 0
end
local had = redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1
if ARGV[2] == '' then
  if not had then
    return 0
  end
  if most > 0 then
    redis.call('SREM', KEYS[5], ARGV[1])
  end
  redis.call('HDEL', KEYS[1], ARGV[1])
else
  if not had and redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[3]) then
    return -1
  end
  if not had and most > 0 then
    local count = 0
    for _, field in ipairs(redis.call('SMEMBERS', KEYS[5])) do
      if redis.call('HEXISTS', KEYS[1], field) == 1 then
        count = count + 1
      else
        redis.call('SREM', KEYS[5], field)
      end
    end
    if count >= most then
      return -2
    end
    redis.call('SADD', KEYS[5], ARGV[1])
  end
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
end
redis.call('HSETNX', KEYS[4], 'id', ARGV[5])
local state = redis.call('HGET', KEYS[4], 'version')
if state and (#state > 15 or not string.find(state, '^%d+$')) then
  -- Somebody else wrote it. It goes on from the newest change; readers read all of what has another id.
  local newest = redis.call('ZRANGE', KEYS[2], 0, 0, 'REV', 'WITHSCORES')[2]
  newest = tonumber(newest) or 0
  if newest >= 1e15 then newest = 0 end
  redis.call('HSET', KEYS[4], 'version', string.format('%d', newest), 'id', ARGV[5])
end
local version = redis.call('HINCRBY', KEYS[4], 'version', 1)
redis.call('ZADD', KEYS[2], version, ARGV[1])
if ARGV[2] == '' then
  redis.call('LPUSH', KEYS[3], ARGV[1])
  while redis.call('LLEN', KEYS[3]) > tonumber(ARGV[4]) do
    local oldest = redis.call('RPOP', KEYS[3])
    if redis.call('HEXISTS', KEYS[1], oldest) == 0 then
      -- Who has not read so far reads all.
      local at = redis.call('ZSCORE', KEYS[2], oldest)
      local floor = tonumber(redis.call('HGET', KEYS[4], 'floor') or '0')
      if at and tonumber(at) > floor then
        redis.call('HSET', KEYS[4], 'floor', at)
      end
      redis.call('ZREM', KEYS[2], oldest)
    end
  end
end
return version
