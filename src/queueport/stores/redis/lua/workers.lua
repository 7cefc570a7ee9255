-- Argument: 1 for the lost workers, 0 for the live ones.
-- Answers: for each worker, its name, then the time and the details of its last announcement.
local low, high = '(' .. exact(now), '+inf'
if argument() == '1' then
  low, high = '-inf', exact(now)
end
local answers = {}
for _, name in ipairs(call('ZRANGEBYSCORE', key('workers'), low, high)) do
  answers[#answers + 1] = name
  answers[#answers + 1] = call('HGET', key('worker'), name)
end
return answers
