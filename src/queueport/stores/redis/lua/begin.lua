-- Start an attempt of jobs that are queued, have not expired, have the expected task, and were not written by a newer
-- queueport. Arguments and answers: see change_each.
return change_each(function(record, expected, change)
  change.set.attempts = string.format('%.0f', (tonumber(record.attempts) or 0) + 1)
  local expired = record.expires_at and (tonumber(record.expires_at) or now) <= now
  local readable = (tonumber(record.v) or 1) <= known_version
  return record.state == 'queued' and record.task == expected and not expired and readable
end)
