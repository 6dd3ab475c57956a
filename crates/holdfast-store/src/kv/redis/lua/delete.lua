-- Removes an entry if what is there is what is expected. A revision is also found past its deadline.
--
-- KEYS  1 the entry, 2 the index of its bucket's deadlines
-- ARGV  1 the time in milliseconds, 0: Redis' own
--       2 what is expected: any, absent, or a revision
--       3 the key as the store knows it
-- Gives {1, 0, 0} if it is not there any more, {0, what is there or nothing} if the expectation does
-- not hold.
local now = tonumber(ARGV[1])
if now == 0 then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end

local stored = redis.call('GET', KEYS[1])
local revision, deadline, present = 0, 0, false
if stored then
  revision, deadline = struct.unpack('>I8I8', stored)
  present = deadline == 0 or deadline > now
end

local expect = ARGV[2]
if (expect == 'absent' and present)
  or (expect ~= 'any' and expect ~= 'absent' and not (stored and revision == tonumber(expect))) then
  return {0, present and stored}
end
if stored then
  redis.call('DEL', KEYS[1])
  redis.call('ZREM', KEYS[2], ARGV[3])
end
return {1, 0, 0}
