-- Moves the deadline of an entry, never to an earlier time. Its revision stays.
--
-- KEYS  1 the entry, 2 the index of its bucket's deadlines
-- ARGV  1 the time in milliseconds, 0: Redis' own
--       2 the deadline in milliseconds
--       3 the key as the store knows it
--       4 session: see put.lua
-- Gives {1, revision, deadline}, or {0} if there is no such entry.
local now = tonumber(ARGV[1])
if now == 0 then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end

local header = redis.call('GETRANGE', KEYS[1], 0, 15)
if #header < 16 then return {0, false} end
local revision, deadline = struct.unpack('>I8I8', header)
if deadline ~= 0 and deadline <= now then return {0, false} end
local until_ = tonumber(ARGV[2])
if deadline ~= 0 and deadline < until_ then
  redis.call('SETRANGE', KEYS[1], 8, struct.pack('>I8', until_))
  if ARGV[4] == 'session' then
    redis.call('ZADD', KEYS[2], until_, ARGV[3])
  else
    redis.call('PEXPIREAT', KEYS[1], ARGV[2])
  end
  deadline = until_
end
return {1, revision, deadline}
