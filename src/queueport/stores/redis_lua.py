r"""The part that all scripts of the Redis store have in common. For readers of the store; the scripts are in
`redis_scripts`.

Every key begins with `{NAMESPACE}:`, which a script gets as its one key, so that a cluster keeps them on one node:

    job:ID       hash     the record's fields that differ from their defaults; `seq`, the number of its insertion, and
                          `error`, the type of its newest error
    PLACE        sorted   where records are listed, as NUMBER+ID, so that equal scores are in the order of insertion:
        listed:STATE:QUEUE:TASK         by number
        errors:STATE:QUEUE:ERROR:TASK   by number, if it has errors
        queued:QUEUE:PRIORITY           by queued_at, while queued
        sent:VERSION:QUEUE:PRIORITY     by sent_at, while queued and sent
        due:VERSION, leases:VERSION     by wake_at; leases are those of running jobs
    counts       hash     how many records each place has; a place without any is not there
    queues       set      every queue ever used
    keys         hash     TASK\0KEY: the id of the living job that holds it
    counters     hash     seq, processed, failed
    workers      sorted   names by when they are forgotten; `worker` has what they said
    aside        sorted   ids of records that could not be read, by when; each lies in aside:ID
    ended:ID     channel  tells that a job became final, or went
"""

__all__ = ["PRELUDE"]

PRELUDE = r"""
local P, call = KEYS[1], redis.call
local VERSION = tonumber(ARGV[1])
local now = tonumber(ARGV[2])
if not now then
  local t = call('TIME')
  now = t[1] + t[2] / 1000000
end

local position = 2
local function take()
  position = position + 1
  return ARGV[position]
end

local function exact(number) return string.format('%.17g', number) end
local function member(r, id) return string.format('%013d', tonumber(r.seq) or 0) .. id end
local function id_of(entry) return string.sub(entry, 14) end
local function number_of(entry) return string.format('%.0f', string.sub(entry, 1, 13)) end
local LIVING = {scheduled = true, queued = true, running = true, retrying = true}

-- The record, with its id; nil where there is none.
local function load(id)
  local flat = call('HGETALL', P .. 'job:' .. id)
  if #flat == 0 then return nil end
  local r = {id = id}
  for i = 1, #flat, 2 do r[flat[i]] = flat[i + 1] end
  return r
end

-- A record as it is answered: in one string, which a client reads much faster than many.
local function whole(r) return r and cmsgpack.pack(r) end

-- The places of a record, each with its score there.
local function places(r)
  if not r.state then return {} end
  local queue, task, v = r.queue or '', r.task or '', r.v or '1'
  local found = {['listed:' .. r.state .. ':' .. queue .. ':' .. task] = r.seq}
  if r.error then found['errors:' .. r.state .. ':' .. queue .. ':' .. r.error .. ':' .. task] = r.seq end
  if tonumber(r.wake_at) then found[(r.state == 'running' and 'leases:' or 'due:') .. v] = r.wake_at end
  if r.state == 'queued' then
    local line = queue .. ':' .. (r.priority or '0')
    found['queued:' .. line] = tonumber(r.queued_at) and r.queued_at or 'inf'
    if r.sent == '1' and tonumber(r.sent_at) then found['sent:' .. v .. ':' .. line] = r.sent_at end
  end
  return found
end

-- Counts are added up here and written by close(), once for a whole batch.
local delta, used, processed, failed = {}, {}, 0, 0
local function count(place, n) delta[place] = (delta[place] or 0) + n end

local function close()
  for place, n in pairs(delta) do
    if n ~= 0 and call('HINCRBY', P .. 'counts', place, n) <= 0 then call('HDEL', P .. 'counts', place) end
  end
  for queue in pairs(used) do call('SADD', P .. 'queues', queue) end
  if processed ~= 0 then call('HINCRBY', P .. 'counters', 'processed', processed) end
  if failed ~= 0 then call('HINCRBY', P .. 'counters', 'failed', failed) end
end

-- Out of every place there is: for an entry whose record was changed, or went, behind the store's back.
local function sweep(entry)
  local known = {}
  for _, place in ipairs(call('HKEYS', P .. 'counts')) do known[place] = true end
  for place in pairs(delta) do known[place] = true end
  for place in pairs(known) do
    if call('ZREM', P .. place, entry) == 1 then count(place, -1) end
  end
end

local function move(entry, from, to)
  for place in pairs(from) do
    if not to[place] then
      if call('ZREM', P .. place, entry) == 1 then
        count(place, -1)
      else
        sweep(entry)
        from = {}
        break
      end
    end
  end
  for place, score in pairs(to) do
    if from[place] ~= score and call('ZADD', P .. place, score, entry) == 1 then count(place, 1) end
  end
end

local function release(r, id)
  if r.key and r.task then
    local name = r.task .. '\0' .. r.key
    if call('HGET', P .. 'keys', name) == id then call('HDEL', P .. 'keys', name) end
  end
end

-- The next change in the arguments. Its shape says in which order the values come: "set|stamped|cleared", by name.
local shapes = {}
local function shape(text)
  if not shapes[text] then
    local parts = {}
    for part in string.gmatch(text .. '|', '([^|]*)|') do
      local names = {}
      for name in string.gmatch(part, '%S+') do names[#names + 1] = name end
      parts[#parts + 1] = names
    end
    shapes[text] = parts
  end
  return shapes[text]
end

local function change()
  local text = take()
  local c = {processed = tonumber(take()), failed = tonumber(take()), delete = text == 'delete', set = {}, clear = {}}
  if not c.delete then
    local parts = shape(text)
    for _, name in ipairs(parts[1]) do c.set[name] = take() end
    for _, name in ipairs(parts[2]) do c.set[name] = exact(now + take()) end
    c.clear = parts[3]
  end
  return c
end

-- Make the change: the record after it. Or, with nothing done: nil, and the living job that holds the key.
local function apply(id, old, c)
  local new = {}
  if not c.delete then
    for name, value in pairs(old) do new[name] = value end
    for _, name in ipairs(c.clear) do new[name] = nil end
    for name, value in pairs(c.set) do new[name] = value end
  end
  if new.key and LIVING[new.state] then
    local name = new.task .. '\0' .. new.key
    local holder = call('HGET', P .. 'keys', name)
    local held = holder and holder ~= id and load(holder)
    if held then return nil, held end
    if holder ~= id then call('HSET', P .. 'keys', name, id) end
  elseif LIVING[old.state] then
    release(old, id)
  end
  local key = P .. 'job:' .. id
  if c.delete then
    call('DEL', key)
  else
    if #c.clear > 0 then call('HDEL', key, unpack(c.clear)) end
    local flat = {}
    for name, value in pairs(c.set) do
      flat[#flat + 1] = name
      flat[#flat + 1] = value
    end
    call('HSET', key, unpack(flat))
    if new.queue ~= old.queue then used[new.queue] = true end
  end
  move(member(old.seq and old or new, id), places(old), places(new))
  processed, failed = processed + c.processed, failed + c.failed
  if new.state ~= old.state and not LIVING[new.state] then call('PUBLISH', P .. 'ended:' .. id, '') end
  return new
end

-- Entries of several places in one order by number, at most `limit`, beyond `start`.
local function merged(names, limit, start, newest)
  if limit <= 0 then return {} end
  local command, last = 'ZRANGEBYSCORE', '+inf'
  if newest then command, last = 'ZREVRANGEBYSCORE', '-inf' end
  local size = #names == 1 and limit or math.min(limit, 20)
  local function page(name, from) return call(command, P .. name, from, last, 'LIMIT', 0, size) end
  local function before(one, other)
    if newest then return one > other end
    return one < other
  end
  local lines = {}
  for _, name in ipairs(names) do
    local entries = page(name, start)
    if #entries > 0 then lines[#lines + 1] = {name = name, entries = entries, at = 1} end
  end
  table.sort(lines, function(a, b) return before(a.entries[1], b.entries[1]) end)
  while #lines > limit do lines[#lines] = nil end -- these begin too late
  local found = {}
  while #found < limit and #lines > 0 do
    local best = 1
    for i = 2, #lines do
      if before(lines[i].entries[lines[i].at], lines[best].entries[lines[best].at]) then best = i end
    end
    local line = lines[best]
    local entry = line.entries[line.at]
    found[#found + 1] = entry
    line.at = line.at + 1
    if line.at > #line.entries then
      line.entries = #line.entries < size and {} or page(line.name, '(' .. number_of(entry))
      line.at = 1
      if #line.entries == 0 then table.remove(lines, best) end
    end
  end
  return found
end

-- The places of records of that state, queue, task and newest error ('' for any), and how many they have in all.
local function matching(state, queue, task, error)
  local found, total = {}, 0
  local counts = call('HGETALL', P .. 'counts')
  for i = 1, #counts, 2 do
    local s, q, t, e
    if error == '' then
      s, q, t = string.match(counts[i], '^listed:([^:]*):([^:]*):(.*)$')
    else
      s, q, e, t = string.match(counts[i], '^errors:([^:]*):([^:]*):([^:]*):(.*)$')
    end
    if s and (state == '' or s == state) and (queue == '' or q == queue) and (task == '' or t == task)
      and (error == '' or e == error or string.match(e, '[^.]*$') == error) then
      found[#found + 1] = counts[i]
      total = total + tonumber(counts[i + 1])
    end
  end
  return found, total
end
"""
