-- The limits for which jobs are held, in the order of their names.
-- Arguments: the maximum number of limits, the maximum number of jobs of each, the name after which to begin, the number of
--   names (0: all limits), names.
-- Answers: the time, then for each limit: its name, running, held, passed, full_at, a list of records.
local most, limit, after, names = number(), number(), argument(), {}
for i = 1, number() do names[i] = argument() end
if #names == 0 then names = call('SMEMBERS', key('held')) end
table.sort(names)
local answers, found = {present}, 0
for _, name in ipairs(names) do
  if found == most then break end
  local state = name > after and limit_state(name)
  if state and state.held == 0 then
    call('SREM', key('held'), name)
  elseif state then
    found = found + 1
    local jobs = {}
    for _, entry in ipairs(call('ZRANGE', key('held:' .. name), 0, limit - 1)) do
      local record = load_entry(entry, {'held:' .. name})
      if record then jobs[#jobs + 1] = packed(record) end
    end
    for _, value in ipairs({name, state.running, state.held, state.passed, exact(state.full_at), jobs}) do
      answers[#answers + 1] = value
    end
  end
end
return answers
