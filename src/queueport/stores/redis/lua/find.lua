-- One page of the jobs that match, newest first.
-- Arguments: the query as `query_argument` reads it; the id of the job after which the page begins, or ''; the seq after
--   which it begins, if there is no id ('' for the first page); the number of jobs to find, and the number to check.
-- Answers: the seq after which the next page begins ('' at the end), then the records.
local query = query_argument()
local after, seq, limit, checks = argument(), number(), number(), number()
if after ~= '' then
  seq = tonumber(call('HGET', key('job:' .. after), 'seq') or '')
  if not seq then return {''} end -- that job has been deleted
end
local entries = candidates(query, seq, checks, seq and after == '')
local answers, ended = {''}, #entries < checks
for i, entry in ipairs(entries) do
  if #answers > limit or query.read > MOST_READ then
    ended = false
    break
  end
  answers[1] = seq_of(entry)
  if query.holds(id_of(entry)) then answers[#answers + 1] = packed(load_entry(entry, query.names)) end
end
if ended then answers[1] = '' end
return answers
