-- The numbers of the history in the intervals that start in a span of time.
-- Arguments: the start and the end of the span, `since` and `step` of the query, its queue and its task ('' for any).
-- Answers: for each step, queue and name in turn the start of the step, the queue, the name and the number.
local from, to, since, step, queue, task = number(), number(), number(), number(), argument(), argument()
local sums = {}
for _, length in ipairs({MINUTE, HOUR}) do
  local listed = 'history:' .. length
  for _, at in ipairs(call('ZRANGEBYSCORE', key(listed), from, '(' .. to)) do
    local point = string.format('%d', since + math.floor((at - since) / step) * step)
    for pair, counts in pairs(read_history(key(listed .. ':' .. at))) do
      local q, t = string.match(pair, '^([^:]*):(.*)$')
      if (queue == '' or q == queue) and (task == '' or t == task) then
        local place = point .. ':' .. q
        sums[place] = sums[place] or {}
        for name, n in pairs(counts) do sums[place][name] = (sums[place][name] or 0) + n end
      end
    end
  end
end
local answers = {}
for place, counts in pairs(sums) do
  local point, q = string.match(place, '^([^:]*):(.*)$')
  for name, n in pairs(counts) do
    answers[#answers + 1] = point
    answers[#answers + 1] = q
    answers[#answers + 1] = name
    answers[#answers + 1] = n
  end
end
return answers
