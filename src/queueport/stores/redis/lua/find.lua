-- One page of the jobs that match, newest first. It can have fewer jobs than were checked, because of finished_before
-- or deleted records.
-- Arguments: state, queue, task, error, finished_before ('' for any); the id of the job after which the page begins, or
--   ''; the seq after which it begins, if there is no id ('' for the first page); the number of jobs to check.
-- Answers: the seq after which the next page begins ('' at the end), then the records.
local names = matching_indexes(argument(), argument(), argument(), argument())
local before, after, seq, limit = number(), argument(), argument(), number()
if after ~= '' then seq = call('HGET', key('job:' .. after), 'seq') end
if not seq then return {''} end -- that job has been deleted
local entries = merged(names, limit, seq == '' and '+inf' or '(' .. seq, true)
local answers = {#entries == limit and seq_of(entries[limit]) or ''}
for _, entry in ipairs(entries) do
  local finished = before and call('HGET', key('job:' .. id_of(entry)), 'finished_at')
  if not before or (finished and (tonumber(finished) or before) < before) then
    answers[#answers + 1] = packed(load_entry(entry))
  end
end
return answers
