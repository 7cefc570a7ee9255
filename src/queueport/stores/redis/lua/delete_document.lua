-- Delete a document if it has the expected rev. Arguments: kind, name, the expected rev. Answers: 1 deleted, 0 not.
local place, name, expected = key('documents:' .. argument()), argument(), argument()
if string.match(call('HGET', place, name) or '', '^(%S+) ') ~= expected then return 0 end
return call('HDEL', place, name)
