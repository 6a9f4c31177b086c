#!lua flags=allow-oom
-- One command, also when the server's memory is full: for what the cluster cannot live without, and
-- what does not grow with its users.
-- KEYS: the command's key. ARGV: the command, then what follows its key. Returns its answer.
return redis.call(ARGV[1], KEYS[1], unpack(ARGV, 2))
