-- One page of a claimed vnode's users, the last seen first (connected ones have no end: +inf).
-- KEYS: epoch, users, seen. ARGV: the epoch, seen since (ms), rank of the first, how many at most.
-- Returns page, 1 when there may be more, the users and their records, or fenced and the epoch
-- that the vnode has now.
local held = redis.call('GET', KEYS[1])
if held ~= ARGV[1] then
  return { 'fenced', held or '0' }
end
local since = tonumber(ARGV[2])
local first = tonumber(ARGV[3])
local most = tonumber(ARGV[4])
local rows = redis.call('ZRANGE', KEYS[3], first, first + most - 1, 'REV', 'WITHSCORES')
local users = {}
for at = 1, #rows, 2 do
  -- Redis writes an infinite score as inf, which not every C library reads as a number.
  if rows[at + 1] ~= 'inf' and tonumber(rows[at + 1]) < since then
    break
  end
  users[#users + 1] = rows[at]
end
if #users == 0 then
  return { 'page', 0, {}, {} }
end
local more = 0
if #users == most then
  more = 1
end
return { 'page', more, users, redis.call('HMGET', KEYS[2], unpack(users)) }
