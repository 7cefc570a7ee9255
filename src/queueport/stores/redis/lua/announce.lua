-- Record that a worker is alive, or remove it if its seconds are 0. Remove each worker that has been lost for too long.
-- Arguments: name, its queues and tasks as JSON, the seconds for which the worker counts as live, and the seconds for
-- which a lost worker is kept. Answer: 1.
local name, details, seconds, kept = argument(), argument(), number(), number()
call('ZADD', key('workers'), exact(now + seconds), name)
call('HSET', key('worker'), name, exact(now) .. ' ' .. details)
local removed = call('ZRANGEBYSCORE', key('workers'), '-inf', exact(now - kept))
if seconds <= 0 then
  removed[#removed + 1] = name
end
for _, gone in ipairs(removed) do
  call('ZREM', key('workers'), gone)
  call('HDEL', key('worker'), gone)
end
return 1
