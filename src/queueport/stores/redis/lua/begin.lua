-- Start an attempt of jobs that are queued, have not expired, have the expected task, and were not written by a newer
-- queueport; or hold them, if their limits do not let them begin.
-- Arguments: n, then n times: id, task, the change, the limits as `limits_argument` reads them, and with limits the queue
-- and the change that holds the job.
-- Answers: a flat list of n pairs, see change_each. The first may also be 5: held; the second is then the record after that.
local answers = {}
for _ = 1, number() do
  local id, task, change, limits = argument(), argument(), change_argument(), limits_argument()
  local queue, hold
  if limits then queue, hold = argument(), change_argument() end
  local record = load(id)
  local outcome, answer = 0, record
  if record and record.state == 'queued' and record.task == task and (not limits or record.queue == queue)
    and not (record.expires_at and (tonumber(record.expires_at) or now) <= now)
    and (tonumber(record.v) or 1) <= known_version then
    local reached = limits and admit(limits, record, change)
    if reached then
      change = holding(hold, record, reached)
    else
      change.set.attempts = string.format('%.0f', (tonumber(record.attempts) or 0) + 1)
    end
    local new, holder = apply_change(record, change)
    outcome, answer = new and (reached and 5 or 1) or 2, new or holder
  end
  answers[#answers + 1] = outcome
  answers[#answers + 1] = answer and answer.id and packed(answer) or false
end
return answers
