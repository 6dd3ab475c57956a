-- Writes an entry if what is there is what is expected.
--
-- KEYS  1 the entry, 2 the index of its bucket's deadlines
-- ARGV  1 the time in milliseconds, 0: Redis' own
--       2 what is expected: any, absent, or a revision
--       3 the value, which no other write has
--       4 the deadline in milliseconds, 0: none
--       5 the key as the store knows it
--       6 session: stays past its deadline, and is in the index; else: Redis removes it
--       7 later: a deadline that is later stays
--       8 the channel that is told, empty: none
-- Gives {1, revision, deadline} if it is written, now or by this same write before;
--       {0, what is there or nothing} if the expectation does not hold.
local time = redis.call('TIME')
local micros = time[1] * 1000000 + time[2]
local now = tonumber(ARGV[1])
if now == 0 then now = math.floor(micros / 1000) end

local stored = redis.call('GET', KEYS[1])
local revision, deadline, present = 0, 0, false
if stored then
  revision, deadline = struct.unpack('>I8I8', stored)
  present = deadline == 0 or deadline > now
  if string.sub(stored, 17) == ARGV[3] then return {1, revision, deadline} end
end

local expect = ARGV[2]
if (expect == 'absent' and present)
  or (expect ~= 'any' and expect ~= 'absent' and not (present and revision == tonumber(expect))) then
  return {0, present and stored}
end

-- Above what was here before, whatever the clock of a server that took over says.
revision = math.max(revision + 1, micros)
local until_ = tonumber(ARGV[4])
if ARGV[7] == 'later' and present and until_ ~= 0 and (deadline == 0 or deadline > until_) then
  until_ = deadline
end
local entry = struct.pack('>I8I8', revision, until_) .. ARGV[3]
if ARGV[6] == 'session' then
  redis.call('SET', KEYS[1], entry)
  if until_ == 0 then
    redis.call('ZREM', KEYS[2], ARGV[5])
  else
    redis.call('ZADD', KEYS[2], until_, ARGV[5])
  end
elseif until_ == 0 then
  redis.call('SET', KEYS[1], entry)
else
  redis.call('SET', KEYS[1], entry, 'PXAT', ARGV[4])
end
if ARGV[8] ~= '' then
  redis.call('PUBLISH', ARGV[8], struct.pack('>I8', revision) .. ARGV[5])
end
return {1, revision, until_}
