-- The numbers of the history in the intervals that start in a span of time.
-- Arguments: the start and the end of the span, `since` and `step` of the query, its queue and its task ('' for any).
-- Answers: for each step, queue and name in turn the start of the step, the queue, the name and the number.
local from, to, since, step, queue, task = number(), number(), number(), number(), argument(), argument()
local sums = {}
for _, length in ipairs({MINUTE, HOUR}) do
  local listed = 'history:' .. length
  for _, at in ipairs(call('ZRANGEBYSCORE', key(listed), from, '(' .. to)) do
    local point = since + math.floor((at - since) / step) * step
    local queues = sums[point] or {}
    sums[point] = queues
    local flat = call('HGETALL', key(listed .. ':' .. at))
    for i = 1, #flat, 2 do -- read in place, because a day has hundreds of thousands of fields
      local name, q, t = string.match(flat[i], '^([^:]+):([^:]*):(.*)$')
      if name and (queue == '' or q == queue) and (task == '' or t == task) then
        local counts = queues[q]
        if not counts then
          counts = {}
          queues[q] = counts
        end
        counts[name] = (counts[name] or 0) + tonumber(flat[i + 1])
      end
    end
  end
end
local answers = {}
for point, queues in pairs(sums) do
  for q, counts in pairs(queues) do
    for name, n in pairs(counts) do
      answers[#answers + 1] = string.format('%d', point)
      answers[#answers + 1] = q
      answers[#answers + 1] = name
      answers[#answers + 1] = n
    end
  end
end
return answers
