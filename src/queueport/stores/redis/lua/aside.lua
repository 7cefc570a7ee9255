-- Move a damaged record to a place where no verb reads it, unless it has changed since it was read or a newer queueport
-- wrote it. Also release its key, remove it from the indexes, and tell callers that wait for the job.
-- Arguments: id, the rev with which it was read, the reason.
-- Answers: the name under which it was put aside; '' if it was not moved. The name is the id, or ID:TIME if an earlier
-- record has the id as its name.
local id, rev, reason = argument(), argument(), argument()
local record = load(id)
if not record or (record.rev or '') ~= rev or (tonumber(record.v) or 0) > known_version then return '' end
local name = call('EXISTS', key('aside:' .. id)) == 0 and id or id .. ':' .. present
call('RENAME', key('job:' .. id), key('aside:' .. name))
call('HSET', key('aside:' .. name), 'aside_reason', reason)
call('ZADD', key('aside'), exact(now), name)
release_key(record)
update_indexes(entry_of(record.seq, id), indexes_of(record), {})
update_labels(entry_of(record.seq, id), labels_of(record), {})
call('PUBLISH', key('ended:' .. id), '')
return name
