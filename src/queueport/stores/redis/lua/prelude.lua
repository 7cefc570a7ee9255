-- The functions that the verbs of the Redis store share. __init__.py explains the conventions and the keys.

local call = redis.call
local ALIVE = {scheduled = true, queued = true, running = true, retrying = true}
local STATES = {succeeded = true, dead = true, cancelled = true}
for state in pairs(ALIVE) do STATES[state] = true end

local known_version = tonumber(ARGV[1])
local now = tonumber(ARGV[2]) -- tests give a time; otherwise the server's clock is used
if not now then
  local time = call('TIME')
  now = time[1] + time[2] / 1000000
end

local position = 2

local function argument()
  position = position + 1
  return ARGV[position]
end

local function number() return tonumber(argument()) end

local function key(name) return KEYS[1] .. name end

-- A number as text without loss, which needs seventeen digits. Lua's own conversion keeps fourteen.
local function exact(value) return string.format('%.17g', value) end
local present = exact(now)

-- Records -------------------------------------------------------------------------------------------------------------

local function load(id)
  local flat = call('HGETALL', key('job:' .. id))
  if #flat == 0 then return nil end
  local record = {id = id}
  for i = 1, #flat, 2 do record[flat[i]] = flat[i + 1] end
  return record
end

-- The fields that `apply_change` and `indexes_of` read. To read only these is faster than to read all.
local INDEXED = {
  'rev', 'state', 'queue', 'task', 'priority', 'wake_at', 'v', 'seq', 'key', 'error', 'queued_at', 'sent', 'sent_at',
  'started_at', 'tags', 'slots', 'held_by', 'reason',
}

-- A record with its indexed fields only; nil if it does not have this rev.
local function load_indexed(id, rev)
  local values, record = call('HMGET', key('job:' .. id), unpack(INDEXED)), {id = id, partial = true}
  for i, name in ipairs(INDEXED) do record[name] = values[i] or nil end
  if record.rev == rev and record.state then return record end
end

-- Encode a record for an answer: a JSON object, in which payload and result are replaced by their lengths, a NUL, the
-- payload, the result. Clients read this faster than many short strings, and large values are copied unchanged.
local function packed(record)
  if not record then return record end
  local payload, result = record.payload, record.result
  record.payload, record.result = payload and #payload, result and #result
  local head = cjson.encode(record)
  record.payload, record.result = payload, result
  return head .. '\0' .. (payload or '') .. (result or '')
end

-- Indexes and their counts --------------------------------------------------------------------------------------------

-- The seq has leading zeros, because Redis sorts entries with equal scores as text.
local function entry_of(seq, id) return string.format('%013d', tonumber(seq) or 0) .. id end
local function id_of(entry) return string.sub(entry, 14) end
local function seq_of(entry) return string.format('%.0f', string.sub(entry, 1, 13)) end

-- The indexes that contain a record, each with the record's score in it.
local function indexes_of(record)
  if not record.state then return {} end
  local queue, task, version = record.queue or '', record.task or '', record.v or '1'
  local found = {['listed:' .. record.state .. ':' .. queue .. ':' .. task] = record.seq}
  if record.error then
    found['errors:' .. record.state .. ':' .. queue .. ':' .. record.error .. ':' .. task] = record.seq
  end
  if tonumber(record.wake_at) then
    found[(record.state == 'running' and 'leases:' or 'due:') .. version] = record.wake_at
  end
  if record.state == 'queued' then
    local bucket = queue .. ':' .. (record.priority or '0')
    found['queued:' .. bucket] = tonumber(record.queued_at) and record.queued_at or 'inf'
    if record.sent == '1' and tonumber(record.sent_at) then
      found['sent:' .. version .. ':' .. bucket] = record.sent_at
    end
  end
  return found
end

-- The changes of the counts. `run` writes them at the end, once for a whole batch.
local added, used_queues, processed, failed = {}, {}, 0, 0

local function add_count(index, n) added[index] = (added[index] or 0) + n end

-- History: `queueport.spi.history` explains the numbers and their names --------------------------------------------------

local MINUTE, HOUR, PAIRS = 60, 3600, 100

-- The number of changes in this call, by 'QUEUE:TASK' and the name that lists their events.
local counted = {}

local function count(pair, name, n)
  counted[pair] = counted[pair] or {}
  counted[pair][name] = (counted[pair][name] or 0) + n
end

-- The number of the histogram's bucket for these seconds.
local bounds
local function bucket(seconds)
  bounds = bounds or {
    0.001, 0.0016, 0.0025, 0.004, 0.0063, 0.01, 0.016, 0.025, 0.04, 0.063, 0.1, 0.16, 0.25, 0.4, 0.63, 1, 1.6, 2.5, 4,
    6.3, 10, 16, 25, 40, 63, 100, 160, 250, 400, 630, 1000, 1600, 2500, 4000, 6300, 10000, 16000, 25000, 40000, 63000,
    100000,
  }
  for i, bound in ipairs(bounds) do
    if seconds <= bound then return i - 1 end
  end
  return #bounds
end

-- Count the events of a change. `was` is the state before the change, nil for an insert; `started` is the start of the
-- attempt before it. `record` is the record after the change, which has no fields if it was deleted. `events` in Python
-- makes the same names.
local function count_events(was, started, record, pair, failed)
  local state, name = record.state, was and '' or ',enqueued'
  if was ~= state then
    if not was or ALIVE[was] then
      if not state then
        name = name .. ',cancelled'
      elseif not ALIVE[state] then
        name = name .. ',' .. state
      end
    elseif ALIVE[state] then
      name = name .. ',retried'
    end
  end
  name = name .. string.rep(',failed', failed)
  if was == state then -- the times of the attempt have not changed
  elseif was == 'running' then
    if started then name = name .. ',run' .. bucket(now - started) end
  elseif state == 'running' and tonumber(record.queued_at) then
    name = name .. ',wait' .. bucket(now - record.queued_at)
  end
  if name ~= '' then count(pair, string.sub(name, 2), 1) end
end

-- The names of a pair's fields in the hash of an interval: first the field that exists if the pair is counted
-- separately, then one field for each name.
local function history_fields(pair, counts)
  local fields = {':' .. pair}
  for name, n in pairs(counts) do
    if n ~= 0 then fields[#fields + 1] = name .. ':' .. pair end
  end
  return fields
end

local function add_history(step, at, found)
  local listed, hash = key('history:' .. step), key(string.format('history:%d:%d', step, at))
  for pair, counts in pairs(found) do
    local fields = history_fields(pair, counts)
    local kept = call('HMGET', hash, unpack(fields))
    if not kept[1] and pair ~= ':' and #fields > 1 then -- the pair has no place yet
      local places = call('HINCRBY', hash, 'places', 1)
      if places == 1 then call('ZADD', listed, at, at) end
      if places > PAIRS then
        call('HINCRBY', hash, 'places', -1)
        pair = ':'
        fields = history_fields(pair, counts)
        kept = call('HMGET', hash, unpack(fields))
      end
    end
    local new = {fields[1], 1}
    for i = 2, #fields do
      new[#new + 1] = fields[i]
      new[#new + 1] = (tonumber(kept[i]) or 0) + counts[string.match(fields[i], '^[^:]*')]
    end
    if #fields > 1 then call('HSET', hash, unpack(new)) end
  end
end

-- The numbers of an interval, as `add_history` takes them.
local function read_history(hash)
  local found, flat = {}, call('HGETALL', hash)
  for i = 1, #flat, 2 do
    local name, pair = string.match(flat[i], '^([^:]+):(.*)$')
    if name then
      found[pair] = found[pair] or {}
      found[pair][name] = tonumber(flat[i + 1])
    end
  end
  return found
end

local function write_counts()
  local names, set, gone = {}, {}, {}
  for index, n in pairs(added) do
    if n ~= 0 then names[#names + 1] = index end
  end
  if #names > 0 then
    for i, count in ipairs(call('HMGET', key('counts'), unpack(names))) do
      local n = (tonumber(count) or 0) + added[names[i]]
      if n > 0 then
        set[#set + 1] = names[i]
        set[#set + 1] = n
      else
        gone[#gone + 1] = names[i]
      end
    end
    if #set > 0 then call('HSET', key('counts'), unpack(set)) end
    if #gone > 0 then call('HDEL', key('counts'), unpack(gone)) end
  end
  for queue in pairs(used_queues) do call('SADD', key('queues'), queue) end
  if processed ~= 0 then call('HINCRBY', key('counters'), 'processed', processed) end
  if failed ~= 0 then call('HINCRBY', key('counters'), 'failed', failed) end
  if next(counted) then add_history(MINUTE, math.floor(now / MINUTE) * MINUTE, counted) end
end

-- Remove an entry from every index. A program other than the store has changed or deleted the entry's record, so it is
-- not known which indexes contain the entry.
local function remove_everywhere(entry)
  local known = {}
  for _, index in ipairs(call('HKEYS', key('counts'))) do known[index] = true end
  for index in pairs(added) do known[index] = true end
  for index in pairs(known) do
    if call('ZREM', key(index), entry) == 1 then add_count(index, -1) end
  end
end

-- The texts in a list that a field has as JSON. A damaged list counts as empty.
local function listed(text)
  local ok, list = pcall(cjson.decode, text or '[]')
  return ok and type(list) == 'table' and list or {}
end

-- The tags of a record, as keys of a table.
local function tags_of(record)
  local found = {}
  for _, tag in ipairs(listed(record.tags)) do found[tostring(tag)] = true end
  return found
end

-- The score of a held job: the jobs of the highest priority first, then those with the lowest queued_at.
local function place_of(record)
  return exact((tonumber(record.queued_at) or 0) - (tonumber(record.priority) or 0) * 1e10)
end

-- The indexes of a record by its key, its tags and its limits. They have no counts, because there may be as many of them
-- as jobs.
local function labels_of(record)
  local found = {}
  if not record.state then return found end
  if record.key then found['keyed:' .. record.key] = record.seq end
  if record.tags then
    for tag in pairs(tags_of(record)) do found['tagged:' .. record.state .. ':' .. tag] = record.seq end
  end
  if record.slots and record.state == 'running' then
    for _, name in ipairs(listed(record.slots)) do found['slots:' .. name] = record.seq end
  end
  if record.held_by and record.state == 'queued' then
    if record.reason == 'limited' then
      found['held:' .. record.held_by] = place_of(record)
      found['held'] = record.held_by
    elseif not record.reason then
      found['passed:' .. record.held_by] = record.seq
    end
  end
  return found
end

local function update_labels(entry, before, after)
  if after.held and after.held ~= before.held then call('SADD', key('held'), after.held) end
  if before.held and not after.held and call('ZCARD', key('held:' .. before.held)) < 2 then
    call('SREM', key('held'), before.held)
  end
  before.held, after.held = nil, nil
  for label in pairs(before) do
    if not after[label] then call('ZREM', key(label), entry) end
  end
  for label, score in pairs(after) do
    if before[label] ~= score then call('ZADD', key(label), score, entry) end
  end
end

local function update_indexes(entry, before, after)
  for index in pairs(before) do
    if not after[index] then
      if call('ZREM', key(index), entry) == 1 then
        add_count(index, -1)
      else -- the entry is in other indexes than expected
        remove_everywhere(entry)
        before = {}
        break
      end
    end
  end
  for index, score in pairs(after) do
    if before[index] ~= score and call('ZADD', key(index), score, entry) == 1 then add_count(index, 1) end
  end
end

-- The record of an entry. If it no longer exists, removes the entry, also from `labels` if given, and returns nil.
local function load_entry(entry, labels)
  local record = load(id_of(entry))
  if not record then
    remove_everywhere(entry)
    for _, label in ipairs(labels or {}) do call('ZREM', key(label), entry) end
  end
  return record
end

-- Changes -------------------------------------------------------------------------------------------------------------

local function release_key(record)
  if record.key and record.task then
    local name = record.task .. '\0' .. record.key
    if call('HGET', key('keys'), name) == record.id then call('HDEL', key('keys'), name) end
  end
end

-- Let a job that has ended keep its key until a time. Also forgets some of the keys whose time is over.
local function keep_key(name, id, till)
  call('HSET', key('kept'), name, id)
  call('ZADD', key('kept:until'), till, name)
  local past = call('ZRANGEBYSCORE', key('kept:until'), '-inf', present, 'LIMIT', 0, 10)
  if #past > 0 then
    call('ZREM', key('kept:until'), unpack(past))
    call('HDEL', key('kept'), unpack(past))
  end
end

-- The ended job that keeps a key: its record, or if the record was deleted, a record as `unreadable_holder` makes it.
local function keeper(name)
  local till = call('ZSCORE', key('kept:until'), name)
  if not till or tonumber(till) <= now then return nil end
  local id = call('HGET', key('kept'), name)
  return load(id) or {id = id, task = '', queue = '', payload = '', state = 'running'}
end

-- The layout of a change, "set|stamped|cleared", names its fields in the order of their values. Most changes of a batch
-- have the same layout, so each layout is split only once. The cleared fields have no values. The layout of an insert
-- that may replace another job ends with "|replace", and that of a change which releases other jobs with "||release".
local layouts = {}
local function layout(text)
  if not layouts[text] then
    local parts = {}
    for part in string.gmatch(text .. '|', '([^|]*)|') do
      local names = {}
      for name in string.gmatch(part, '%S+') do names[#names + 1] = name end
      parts[#parts + 1] = names
    end
    layouts[text] = parts
  end
  return layouts[text]
end

-- Read a change from the next arguments: its layout or 'delete', what to add to `processed` and `failed`, its values.
local change_argument
function change_argument()
  local text = argument()
  local parts = layout(text)
  local delete = parts[1][1] == 'delete'
  local change = {processed = number(), failed = number(), delete = delete, set = {}, clear = {}}
  if not change.delete then
    for _, name in ipairs(parts[1]) do change.set[name] = argument() end
    for _, name in ipairs(parts[2]) do
      local seconds = number()
      change.set[name] = seconds == 0 and present or exact(now + seconds)
    end
    change.clear = parts[3]
    change.replaces = parts[4] and parts[4][1] == 'replace'
  end
  for i = 1, parts[5] and number() or 0 do
    change.releases = change.releases or {}
    change.releases[i] = {id = argument(), all = argument() == '1', after = argument(), change = change_argument()}
  end
  return change
end

-- Read the arguments that follow an insert which may replace another job; nil for any other insert. They are the
-- changes `waiting`, `running` and, after a 1, `sent`.
local function replacement_argument(change)
  if not change.replaces then return nil end
  local found = {waiting = change_argument(), running = change_argument()}
  found.sent = number() == 1 and change_argument() or found.waiting
  return found
end

local release

-- Apply a change to a record; a new record has only an id. Returns the changed record, which has no fields if it was
-- deleted. If another job holds the key, does nothing, and returns nil and that job. For a new record, that job may also
-- be an ended one that keeps the key.
local function apply_change(record, change)
  local id, set, clear = record.id, change.set, change.clear
  if record.key or set.key then
    local after = {key = set.key or record.key, state = set.state or record.state, task = set.task or record.task}
    for _, name in ipairs(clear) do after[name] = nil end
    if not change.delete and after.key and ALIVE[after.state] then
      local name = after.task .. '\0' .. after.key
      local holder = call('HGET', key('keys'), name)
      local held = holder and holder ~= id and load(holder)
      if not held and not record.state then held = keeper(name) end
      if held then return nil, held end
      if holder ~= id then call('HSET', key('keys'), name, id) end
      if record.state and not ALIVE[record.state] and call('ZREM', key('kept:until'), name) == 1 then
        call('HDEL', key('kept'), name)
      end
    elseif ALIVE[record.state] then
      release_key(record)
    end
    if not change.delete and after.key and not ALIVE[after.state] and set.key_until then
      keep_key(after.task .. '\0' .. after.key, id, set.key_until)
    end
  end
  local job, entry, before = key('job:' .. id), entry_of(record.seq or set.seq, id), indexes_of(record)
  local labels = (record.key or set.key or record.tags or set.tags or record.slots or set.slots or record.held_by
    or set.held_by) and labels_of(record)
  local state, queue, started = record.state, record.queue, tonumber(record.started_at)
  local pair = (set.queue or queue or '') .. ':' .. (set.task or record.task or '')
  if change.delete then
    call('DEL', job)
    record = {}
  else
    local gone, flat = {}, {}
    for _, name in ipairs(clear) do
      if record.partial or record[name] then gone[#gone + 1] = name end
      record[name] = nil
    end
    if #gone > 0 then call('HDEL', job, unpack(gone)) end
    for name, value in pairs(set) do
      flat[#flat + 1] = name
      flat[#flat + 1] = value
      record[name] = value
    end
    call('HSET', job, unpack(flat))
    if record.queue ~= queue then used_queues[record.queue] = true end
  end
  update_indexes(entry, before, indexes_of(record))
  if labels then update_labels(entry, labels, labels_of(record)) end
  if change.undoes then
    count(pair, 'enqueued', -1)
  elseif record.state ~= state or change.failed ~= 0 then
    count_events(state, started, record, pair, change.failed)
  end
  processed, failed = processed + change.processed, failed + change.failed
  if record.state ~= state and not ALIVE[record.state] then call('PUBLISH', key('ended:' .. id), '') end
  for _, one in ipairs(change.releases or {}) do release(one) end
  return record
end

-- Limits: `queueport.spi.storage` explains the rules in `admit` --------------------------------------------------------

-- Read the limits of a begin from the next arguments: their number, then for each its name, concurrency, rate ('' for
-- none), burst, and 1 if it is keyed. Returns nil if there are none.
local function limits_argument()
  local found = {}
  for i = 1, number() do
    found[i] = {name = argument(), concurrency = number(), rate = number(), burst = number(), keyed = number() == 1}
  end
  return #found > 0 and found or nil
end

local function limit_state(name)
  return {
    running = call('ZCARD', key('slots:' .. name)), held = call('ZCARD', key('held:' .. name)),
    passed = call('ZCARD', key('passed:' .. name)), full_at = tonumber(call('ZSCORE', key('rates'), name) or 0),
  }
end

-- When the whole burst of the rate is free. Starts of another rate, which would be more than a burst, do not count.
local function full_at(limit, state)
  return (state.full_at - now) * limit.rate <= limit.burst + 0.01 and math.max(state.full_at, now) or now
end

-- True if the limit lets a job begin after `ahead` others.
local function has_room(limit, state, ahead)
  if limit.concurrency and state.running + ahead >= limit.concurrency then return false end
  if not limit.rate then return true end
  local starts = limit.burst - (full_at(limit, state) - now) * limit.rate
  return math.floor(starts + 1e-6) - ahead >= 1
end

-- Check whether the limits let a job begin. If so, counts the start against their rates, and adds the names of the limits
-- to the change. Otherwise returns the name of the limit that does not.
local function admit(limits, record, change)
  local names, rates, waited = {}, {}, record.held_by and not record.reason
  for _, limit in ipairs(limits) do
    local name = limit.name .. (limit.keyed and record.limit_key and ' ' .. record.limit_key or '')
    local state = limit_state(name)
    local ahead = waited and record.held_by == name and 0 or state.passed
    if (not waited and state.held > 0) or not has_room(limit, state, ahead) then return name end
    names[#names + 1] = name
    if limit.rate then rates[name] = exact(full_at(limit, state) + 1 / limit.rate) end
  end
  for name, at in pairs(rates) do
    call('ZADD', key('rates'), at, name)
    call('ZREMRANGEBYSCORE', key('rates'), '-inf', present)
  end
  change.set.slots = cjson.encode(names)
  change.set.held_by = nil
  if record.held_by then -- the list belongs to all changes of this layout
    local clear = {'held_by'}
    for _, name in ipairs(change.clear) do clear[#clear + 1] = name end
    change.clear = clear
  end
end

-- The change that makes a job wait for a limit. A dispatcher must find the job when it expires.
local function holding(hold, record, name)
  hold.set.held_by = name
  local ends = tonumber(record.expires_at)
  if ends and ends < (tonumber(hold.set.wake_at) or math.huge) then hold.set.wake_at = record.expires_at end
  return hold
end

-- Whether a job follows the job or the batch with this id. Empty: any.
local function follows(record, id)
  if id == '' then return true end
  local ok, links = pcall(cjson.decode, record.links or '{}')
  return ok and type(links) == 'table' and (links.after == id or links.after_batch == id)
end

-- Apply a `Release`: one job fewer, or none any more, must end before this job is due.
function release(one)
  local waiting, change = load(one.id), one.change
  local waits = waiting and waiting.state == 'scheduled' and tonumber(waiting.waits_for) or 0
  if waits < 1 or not follows(waiting, one.after) then return end
  if one.all or waits == 1 then
    change.set.wake_at = present
    change.clear = {'waits_for', unpack(change.clear)} -- a copy, because changes with one layout share this list
  else
    change.set.waits_for = string.format('%.0f', waits - 1)
  end
  apply_change(waiting, change)
end

-- Insert a record whose id is absent. If another job holds the key, make the change of `replacement` that `replacing` in
-- Python chooses. Returns 1 and the record, 2 and the holder of the key, or 4 and the holder after the change. The third
-- value is the running job that has given up the key.
local function insert_record(id, change, replacement)
  local new, holder = apply_change({id = id}, change)
  if new then return 1, new end
  local changes = replacement and ALIVE[holder.state] and holder.key and (tonumber(holder.v) or 1) <= known_version
    and holder.rev ~= change.set.rev
  if not changes then return 2, holder end
  if holder.state == 'running' then
    apply_change(holder, replacement.running)
    return 1, apply_change({id = id}, change), holder
  end
  local set = change.set
  local same = holder.queue == set.queue and holder.group == set.group
    and (tonumber(holder.priority) or 0) == (tonumber(set.priority) or 0)
  local stays = holder.state == 'queued' and holder.sent == '1' and same
  return 4, apply_change(holder, stays and replacement.sent or replacement.waiting)
end

-- The body of the verbs swap, begin and heartbeat. `condition` decides whether a record may be changed, and may add to
-- the change.
-- Arguments: n, then n times: id, the value that `condition` compares, if `asks_known` whether the client knows the
-- record ('1' or '0'), the change. With `asks_known`, the value to compare is the rev.
-- Answers: a flat list of n pairs. First: 1 applied, 0 refused or 2 key held. Second: the record after the change (only
-- the time of the change, if the client knows the record), the record that was found, or the holder of the key (false:
-- there is none, or the change has deleted the record).
local function change_each(condition, asks_known)
  local answers = {}
  for _ = 1, number() do
    local id, expected = argument(), argument()
    local known = asks_known and argument() == '1'
    local change = change_argument()
    local old = known and load_indexed(id, expected) or load(id)
    local outcome, answer = 0, old
    if old and condition(old, expected, change) then
      local new, holder = apply_change(old, change)
      outcome, answer = new and 1 or 2, new or holder
    end
    answers[#answers + 1] = outcome
    answer = answer and answer.id and answer
    answers[#answers + 1] = answer and (known and outcome == 1 and present or packed(answer)) or false
  end
  return answers
end

-- Run a verb, and write the counts even after an error. The error of a command is a table in Redis 7, and a text in
-- older versions.
local function run(verb)
  local ok, answer = pcall(verb)
  write_counts()
  if ok or type(answer) == 'table' then return answer end
  return redis.error_reply(answer)
end
