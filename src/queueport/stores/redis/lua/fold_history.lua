-- Fold old minutes of the history into their hours, and delete old hours.
-- Arguments: the seconds for which minutes are kept, the same for hours, the number of minutes and of hours to handle.
-- Answer: 1.
local minutes, hours, limit = number(), number(), number()
local function ended(step, seconds)
  return call('ZRANGEBYSCORE', key('history:' .. step), '-inf', exact(now - seconds - step), 'LIMIT', 0, limit)
end
local function delete(step, at)
  call('DEL', key('history:' .. step .. ':' .. at))
  call('ZREM', key('history:' .. step), at)
end
for _, at in ipairs(ended(MINUTE, minutes)) do
  add_history(HOUR, math.floor(at / HOUR) * HOUR, read_history(key('history:' .. MINUTE .. ':' .. at)))
  delete(MINUTE, at)
end
for _, at in ipairs(ended(HOUR, hours)) do delete(HOUR, at) end
return 1
