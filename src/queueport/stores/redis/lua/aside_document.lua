-- Move a damaged document to a place where no verb reads it, unless it has changed since it was read.
-- Arguments: kind, name, the document as it was read, the reason. Answers: the name under which it was put aside, which
-- is KIND:NAME, or, if another document was put aside under that name before, KIND:NAME:TIME; '' if it was left.
local kind, name, text, reason = argument(), argument(), argument(), argument()
if call('HGET', key('documents:' .. kind), name) ~= text then return '' end
local id = kind .. ':' .. name
if call('EXISTS', key('aside:' .. id)) == 1 then id = id .. ':' .. present end
call('HSET', key('aside:' .. id), 'aside_reason', reason, 'document', text)
call('ZADD', key('aside'), exact(now), id)
call('HDEL', key('documents:' .. kind), name)
return id
