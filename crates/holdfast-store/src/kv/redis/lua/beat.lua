-- The heartbeat: Redis' time, and the mark that says that the store is still the one it was.
--
-- KEYS  1 the mark
-- ARGV  1 a random mark to be set if there is none, empty: none is set
-- Gives {seconds, microseconds, the mark or nothing}.
local time = redis.call('TIME')
local mark = redis.call('GET', KEYS[1])
if not mark and ARGV[1] ~= '' then
  -- Where nothing can be written at the moment there is still the time to be told.
  local set = redis.pcall('SET', KEYS[1], ARGV[1])
  if not set.err then mark = ARGV[1] end
end
return {tonumber(time[1]), tonumber(time[2]), mark}
