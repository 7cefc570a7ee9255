-- The numbers of the history in the intervals that start in a span of time.
-- Arguments: the start and the end of the span, `since` and `step` of the query, its queue and its task ('' for any), and
-- 1 if the numbers of each task are wanted, or 0.
-- Answers: for each step, queue and task in turn the start of the step, the queue, the task, and the names and numbers,
-- `NAME NUMBER NAME NUMBER`. The task is '' if these are the numbers of all tasks.
local from, to, since, step, queue, task = number(), number(), number(), number(), argument(), argument()
local by_task = number() == 1
local sums = {} -- the numbers by step and field; the same fields are in all intervals, so only their sums are read
for _, length in ipairs({MINUTE, HOUR}) do
  local listed = 'history:' .. length
  for _, at in ipairs(call('ZRANGEBYSCORE', key(listed), from, '(' .. to)) do
    local point = since + math.floor((at - since) / step) * step
    local fields = sums[point] or {}
    sums[point] = fields
    local flat = call('HGETALL', key(listed .. ':' .. at))
    for i = 1, #flat, 2 do fields[flat[i]] = (fields[flat[i]] or 0) + (tonumber(flat[i + 1]) or 0) end
  end
end
local answers = {}
for point, fields in pairs(sums) do
  local places = {}
  for field, n in pairs(fields) do
    local name, q, t = string.match(field, '^([^: ]+):([^:]*):(.*)$')
    if name and (queue == '' or q == queue) and (task == '' or t == task) then
      local place = by_task and q .. ':' .. t or q .. ':'
      places[place] = places[place] or {}
      places[place][name] = (places[place][name] or 0) + n
    end
  end
  for place, counts in pairs(places) do
    local q, t = string.match(place, '^([^:]*):(.*)$')
    local numbers = {}
    for name, n in pairs(counts) do numbers[#numbers + 1] = string.format('%s %d', name, n) end
    answers[#answers + 1] = string.format('%d', point)
    answers[#answers + 1] = q
    answers[#answers + 1] = t
    answers[#answers + 1] = table.concat(numbers, ' ')
  end
end
return answers
