-- The heartbeat: Redis' time, and the mark that says that the store is still the one it was.
--
-- KEYS  1 the mark
-- ARGV  1 a random mark to be set if there is none, empty: none is set
-- Gives {seconds, microseconds, the mark or nothing}.
local time = redis.call('TIME')
local mark = redis.call('GET', KEYS[1])
if not mark and ARGV[1] ~= '' then
  redis.call('SET', KEYS[1], ARGV[1])
  mark = ARGV[1]
end
return {tonumber(time[1]), tonumber(time[2]), mark}
