-- Argument: a kind. Answers: for each document of this kind, its name, then its rev, a space and its value as JSON.
return call('HGETALL', key('documents:' .. argument()))
