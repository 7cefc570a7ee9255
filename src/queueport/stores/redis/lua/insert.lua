-- Insert records whose id is absent and whose key is free, and run commands of a backend in the same step. If the key is
-- held, an insert may change the holder instead.
-- Arguments: the time after which nothing is inserted, n, then n times: id, change, the number of commands, each
--   command as the number of its words and the words, and what `replacement_argument` reads.
-- Answers: the present time; if it is not too late, then n pairs. First: 1 inserted, 0 the id exists, 2 key held,
--   3 a command failed, 4 the holder of the key was replaced. Second: the record that was found, the holder of the key,
--   or the command's error (false: none).
local latest, n = number(), number()
if now > latest then return {present} end
local seq = call('HINCRBY', key('counters'), 'seq', n) - n
local answers = {present}
for i = 1, n do
  local id, change = argument(), change_argument()
  local commands = {}
  for j = 1, number() do
    commands[j] = {}
    for k = 1, number() do commands[j][k] = argument() end
  end
  local replacement = replacement_argument(change)
  local outcome, answer = 0, packed(load(id))
  if not answer then
    change.set.seq = string.format('%.0f', seq + i)
    local record, released
    outcome, record, released = insert_record(id, change, replacement)
    answer = outcome ~= 1 and packed(record)
    for _, command in ipairs(outcome == 1 and commands or {}) do
      local reply = redis.pcall(unpack(command))
      if type(reply) == 'table' and reply.err then -- the job must not exist without its message
        apply_change(record, {processed = -change.processed, failed = 0, delete = true, undoes = true, set = {}, clear = {}})
        if released then -- the running job gets its key back
          apply_change(released, {processed = 0, failed = 0, set = {key = change.set.key}, clear = {}})
        end
        outcome, answer = 3, reply.err
        break
      end
    end
  end
  answers[#answers + 1] = outcome
  answers[#answers + 1] = answer or false
end
return answers
