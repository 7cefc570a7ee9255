-- Arguments: n, then n ids. Answers: n records (false: there is none).
local answers = {}
for i = 1, number() do answers[i] = packed(load(argument())) or false end
return answers
