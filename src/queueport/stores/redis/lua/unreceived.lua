-- The queued jobs of a queue and priority whose message was sent before a time, in the order of sent_at.
-- Arguments: queue, priority, that time, limit. Answers: records.
local queue, priority, before, limit = argument(), argument(), argument(), number()
local names, answers = {}, {}
for version = 1, known_version do names[version] = 'sent:' .. version .. ':' .. queue .. ':' .. priority end
for _, found in ipairs(lowest(names, '(' .. before, limit)) do
  if #answers == limit then break end
  answers[#answers + 1] = packed(load_entry(found.entry))
end
return answers
