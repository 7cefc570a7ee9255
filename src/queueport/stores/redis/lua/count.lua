-- Count the jobs that match, page by page.
-- Arguments: the query as `query_argument` reads it, the seq after which the page begins ('' for the first page), and the
--   number of jobs to check. Answers: the seq after which the next page begins ('' at the end), and the number of jobs.
local query = query_argument()
local seq, checks = number(), number()
if query.total then return {'', query.total} end
local low, high
if query.timed and #query.names > 0 then low, high = certain(query.names, query.since, query.till) end
if seq and high and seq <= high then low, high = nil, nil end -- an earlier page has counted these
local entries, n = candidates(query, seq, checks, seq), 0
for i, entry in ipairs(entries) do
  if low and tonumber(seq_of(entry)) <= high then
    for _, index in ipairs(query.names) do
      n = n + call('ZCOUNT', key(index), string.format('%.0f', low), seq_of(entry))
    end
    return {string.format('%.0f', low), n}
  end
  if query.holds(id_of(entry)) then n = n + 1 end
  if query.read > MOST_READ or i == checks then return {seq_of(entry), n} end
end
return {'', n}
