#!lua flags=allow-oom
-- Renews a node's lease, which belongs to one life of it. A new process may take over what its
-- predecessor left; one that was there before may not.
-- KEYS: the lease. ARGV: the lease's boot (text: it has 64 bits, more than a number here holds),
-- the lease (JSON), its TTL (ms), 1 when the process is new.
-- Returns created, kept, taken or refused.
local held = redis.call('GET', KEYS[1])
local outcome = 'created'
if held then
  if string.match(held, '"boot":(%d+)') == ARGV[1] then
    outcome = 'kept'
  elseif ARGV[4] == '1' then
    outcome = 'taken'
  else
    return 'refused'
  end
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return outcome
