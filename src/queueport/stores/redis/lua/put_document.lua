-- Write a document if it has the expected rev. In the same step, insert records whose id is absent and whose key is free.
-- Arguments: kind, name, the expected rev (empty: there must be no document), the new rev, the value as JSON, n, then n
-- times an insert as insert.lua reads it, without commands. Answers: 1 written, now or by an earlier call; 0 another rev.
local place, name = key('documents:' .. argument()), argument()
local expected, rev, value = argument(), argument(), argument()
local found = string.match(call('HGET', place, name) or '', '^(%S+) ') or ''
if found ~= expected then return found == rev and 1 or 0 end
call('HSET', place, name, rev .. ' ' .. value)
for _ = 1, number() do
  local id, change, commands = argument(), change_argument(), number()
  local replacement = replacement_argument(change)
  if commands == 0 and not load(id) then
    change.set.seq = string.format('%.0f', call('HINCRBY', key('counters'), 'seq', 1))
    insert_record(id, change, replacement)
  end
end
return 1
