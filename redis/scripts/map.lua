#!lua flags=allow-oom
-- Replaces the map, unless a newer leader has written one, or another than the writer has read is
-- there. Where none is, any may be written.
-- KEYS: the map. ARGV: the writer's token (8 bytes, big-endian), the version that the writer has
-- read (8 bytes, little-endian; 0 = none), the map's bytes.
-- Returns written, or superseded or moved and the first 20 bytes of what is there: the token (8),
-- the map's magic (4) and its version (8, little-endian).
local head = redis.call('GETRANGE', KEYS[1], 0, 19)

-- Byte by byte: a number here holds 53 bits, and texts compare by the server's locale.
local function token_is_higher(a, b)
  for at = 1, 8 do
    local left, right = string.byte(a, at), string.byte(b, at)
    if left ~= right then
      return left > right
    end
  end
  return false
end

local version = string.rep('\0', 8)
if #head == 20 then
  version = string.sub(head, 13, 20)
end
if #head >= 8 and token_is_higher(head, ARGV[1]) then
  return { 'superseded', head }
end
local value = ARGV[1] .. ARGV[3]
if #head > 0 and version ~= ARGV[2] and redis.call('GET', KEYS[1]) ~= value then
  return { 'moved', head }
end
redis.call('SET', KEYS[1], value)
return { 'written' }
