-- The jobs of a state, and of a queue or task if given, except the newest ones, oldest first.
-- Arguments: state, queue, task ('' for any), the number of newest jobs to leave out, limit. Answers: records.
local names, total = matching_indexes(argument(), argument(), argument(), '')
local keep, limit = number(), number()
local answers = {}
for _, entry in ipairs(merged(names, math.min(limit, total - keep), '-inf', false)) do
  answers[#answers + 1] = packed(load_entry(entry))
end
return answers
