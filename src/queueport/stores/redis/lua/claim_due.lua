-- Claim the jobs whose wake_at has passed, most overdue first.
-- Arguments: limit, the seconds that a claim lasts, the new rev, 1 to include running jobs or 0.
-- Answers: a number above 0 if jobs of one of the next ten record versions have a wake_at, then the claimed records.
local limit, seconds, rev, leases = number(), number(), argument(), argument() == '1'
local names = {}
for version = 1, known_version do
  names[#names + 1] = 'due:' .. version
  if leases then names[#names + 1] = 'leases:' .. version end
end
local newer = {}
for version = known_version + 1, known_version + 10 do
  newer[#newer + 1] = key('due:' .. version)
  newer[#newer + 1] = key('leases:' .. version)
end
local answers, wake_at = {call('EXISTS', unpack(newer))}, exact(now + seconds)
for _, found in ipairs(lowest(names, exact(now), limit)) do
  if #answers > limit then break end
  local record = load_entry(found.entry)
  if record then
    record.wake_at, record.rev = wake_at, rev
    call('HSET', key('job:' .. record.id), 'wake_at', wake_at, 'rev', rev)
    call('ZADD', key(found.index), wake_at, found.entry)
    answers[#answers + 1] = packed(record)
  end
end
return answers
