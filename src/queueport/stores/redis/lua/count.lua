-- Arguments: state, queue, task, error ('' for any). Answers: the number of jobs that match.
local _, total = matching_indexes(argument(), argument(), argument(), argument())
return total
