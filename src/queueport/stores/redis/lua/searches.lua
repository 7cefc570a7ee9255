-- The functions that the verbs with searches share, in addition to those of prelude.lua.

-- The entries of several indexes with a score up to `highest`, lowest first, as {index, entry, at}, in which `at` is
-- the score. Returns at most `limit` entries of each index, so there may be more than `limit` in all.
local function lowest(names, highest, limit)
  local found = {}
  for _, index in ipairs(names) do
    local page = call('ZRANGEBYSCORE', key(index), '-inf', highest, 'WITHSCORES', 'LIMIT', 0, limit)
    for i = 1, #page, 2 do found[#found + 1] = {index = index, entry = page[i], at = tonumber(page[i + 1])} end
  end
  table.sort(found, function(a, b) return a.at < b.at or (a.at == b.at and a.entry < b.entry) end)
  return found
end

-- True if one of the classes, which are separated by spaces, has this name, with or without its module.
local function names_error(classes, name)
  local text = ' ' .. classes .. ' '
  return string.find(text, ' ' .. name .. ' ', 1, true) or string.find(text, '.' .. name .. ' ', 1, true)
end

-- The indexes of jobs with that state, queue, task and newest error ('' for any), and their number of entries.
local function matching_indexes(state, queue, task, error)
  local found, total = {}, 0
  local counts = call('HGETALL', key('counts'))
  for i = 1, #counts, 2 do
    local s, q, t, e
    if error == '' then
      s, q, t = string.match(counts[i], '^listed:([^:]*):([^:]*):(.*)$')
    else
      s, q, e, t = string.match(counts[i], '^errors:([^:]*):([^:]*):([^:]*):(.*)$')
    end
    if s and (state == '' or s == state) and (queue == '' or q == queue) and (task == '' or t == task)
      and (error == '' or names_error(e, error)) then
      found[#found + 1] = counts[i]
      total = total + tonumber(counts[i + 1])
    end
  end
  return found, total
end

-- At most `limit` entries of several indexes, merged by seq, from the score `start` on, up to the score `last` (nil: all).
-- Reads each index in pages.
local function merged(names, limit, start, newest_first, last)
  if limit <= 0 then return {} end
  local command = newest_first and 'ZREVRANGEBYSCORE' or 'ZRANGEBYSCORE'
  last = last or (newest_first and '-inf' or '+inf')
  local size = #names == 1 and limit or math.min(limit, 20)
  local function page(index, from) return call(command, key(index), from, last, 'LIMIT', 0, size) end
  local function before(one, other)
    if newest_first then return one > other end
    return one < other
  end
  local readers = {}
  for _, index in ipairs(names) do
    local entries = page(index, start)
    if #entries > 0 then readers[#readers + 1] = {index = index, entries = entries, at = 1} end
  end
  table.sort(readers, function(a, b) return before(a.entries[1], b.entries[1]) end)
  while #readers > limit do readers[#readers] = nil end -- the entries of later readers come after the first `limit`
  local found = {}
  while #found < limit and #readers > 0 do
    local best = 1
    for i = 2, #readers do
      if before(readers[i].entries[readers[i].at], readers[best].entries[readers[best].at]) then best = i end
    end
    local reader = readers[best]
    local entry = reader.entries[reader.at]
    found[#found + 1] = entry
    reader.at = reader.at + 1
    if reader.at > #reader.entries then
      reader.entries = #reader.entries < size and {} or page(reader.index, '(' .. seq_of(entry))
      reader.at = 1
      if #reader.entries == 0 then table.remove(readers, best) end
    end
  end
  return found
end

-- Search an index by bisection. Returns the seq of the last entry that was enqueued before a time, and the seq of the
-- first one that was enqueued at that time or later (nil: none).
local function around(index, size, time)
  local low, high, before, after = 0, size, nil, nil
  while low < high do
    local middle = math.floor((low + high) / 2)
    local entry = call('ZRANGE', key(index), middle, middle)[1]
    local found = call('HMGET', key('job:' .. id_of(entry)), 'state', 'enqueued_at')
    local at = tonumber(found[2] or '0') or 0
    if not found[1] then -- the record was deleted by another program
      low = middle + 1
    elseif at < time then
      low, before = middle + 1, entry
    else
      high, after = middle, entry
    end
  end
  return before and seq_of(before), after and seq_of(after)
end

-- The seqs, which are excluded, between which all entries of these indexes lie that were enqueued between two times (nil:
-- any time). The largest indexes are enough, because seqs are in the order of the time in all of them. If the clock was
-- set back, they are in this order except for CLOCK_STEP seconds.
local CLOCK_STEP, BISECTED = 10, 4
local function span(names, since, till)
  local low, high
  local sizes = {}
  for i, index in ipairs(names) do sizes[i] = {index = index, n = call('ZCARD', key(index))} end
  table.sort(sizes, function(a, b) return a.n > b.n end)
  for i = 1, math.min(#sizes, BISECTED) do
    local before = since and around(sizes[i].index, sizes[i].n, since - CLOCK_STEP)
    local _, after
    if till then _, after = around(sizes[i].index, sizes[i].n, till + CLOCK_STEP) end
    if before then low = math.max(low or 0, tonumber(before)) end
    if after then high = math.min(high or tonumber(after), tonumber(after)) end
  end
  return low, high
end

-- The lowest and the highest seq of entries of these indexes that were certainly enqueued between two times (nil: any time).
-- Returns nothing if there are none.
local function certain(names, since, till)
  local largest, size = names[1], -1
  for _, index in ipairs(names) do
    local n = call('ZCARD', key(index))
    if n > size then largest, size = index, n end
  end
  local low, high = 0, math.huge
  if since then
    local _, after = around(largest, size, since + CLOCK_STEP)
    low = tonumber(after)
  end
  if till then high = tonumber((around(largest, size, till - CLOCK_STEP))) end
  if low and high and low <= high then return low, high end
end

-- A page ends after the job with which its search has read more bytes of payloads than this.
local MOST_READ = 2000000

-- Read a query from the next arguments: state, queue, task, error, key, tag, text, finished_before, since and until ('' for
-- any). Returns `names`, the indexes to read; `total`, their number of entries if all of these match, else nil; `since` and
-- `till`, the times of the enqueue (nil: any); `timed`, true if the entries need only be compared with these times; the
-- function `holds`, which tells whether the record with an id matches; and `read`, the number of bytes of payloads that
-- `holds` has read.
local function query_argument()
  local wanted = {}
  for _, name in ipairs({'state', 'queue', 'task', 'error', 'key', 'tag', 'text'}) do wanted[name] = argument() end
  local before, since, till = number(), number(), number()
  local found, checked = {read = 0}, before or wanted.text ~= ''
  if wanted.key ~= '' then
    found.names = {'keyed:' .. wanted.key}
    found.total = call('ZCARD', key(found.names[1]))
    checked = checked or wanted.tag ~= '' or wanted.state ~= ''
  elseif wanted.tag ~= '' then
    found.names, found.total = {}, 0
    for state in pairs(wanted.state ~= '' and {[wanted.state] = true} or STATES) do
      local name = 'tagged:' .. state .. ':' .. wanted.tag
      found.names[#found.names + 1] = name
      found.total = found.total + call('ZCARD', key(name))
    end
    wanted.tag = ''
  else
    found.names, found.total = matching_indexes(wanted.state, wanted.queue, wanted.task, wanted.error)
    wanted = {state = '', queue = '', task = '', error = '', tag = '', text = wanted.text}
  end
  checked = checked or wanted.queue ~= '' or wanted.task ~= '' or wanted.error ~= ''
  found.since, found.till, found.timed = since, till, not checked and (since or till)
  if not checked and not found.timed then
    found.holds = function() return true end
    return found
  end
  found.total = nil
  local fields = {'state'} -- only the fields that are compared, because a search may check many jobs
  for name, used in pairs({
    queue = wanted.queue ~= '', task = wanted.task ~= '', error = wanted.error ~= '', tags = wanted.tag ~= '',
    payload = wanted.text ~= '', finished_at = before, enqueued_at = since or till,
  }) do
    if used then fields[#fields + 1] = name end
  end
  found.holds = function(id)
    local record = {}
    for i, value in ipairs(call('HMGET', key('job:' .. id), unpack(fields))) do record[fields[i]] = value end
    for _, name in ipairs({'state', 'queue', 'task'}) do
      if wanted[name] ~= '' and record[name] ~= wanted[name] then return false end
    end
    found.read = found.read + #(record.payload or '')
    local finished, enqueued = tonumber(record.finished_at or ''), tonumber(record.enqueued_at or '0') or 0
    return record.state
      and (wanted.tag == '' or tags_of({tags = record.tags or nil})[wanted.tag])
      and (wanted.error == '' or (record.error and names_error(record.error, wanted.error)))
      and (not before or (finished and finished < before))
      and (wanted.text == '' or string.find(record.payload or '', wanted.text, 1, true))
      and (not since or enqueued >= since)
      and (not till or enqueued < till)
  end
  return found
end

-- At most `limit` entries that may match a query, newest first, before the seq if one is given. With `goes_on`, the seq is
-- that of an entry which an earlier page has read, so that it need not be compared with the query's times.
local function candidates(query, seq, limit, goes_on)
  local low, high
  if query.since or query.till then low, high = span(query.names, query.since, not goes_on and query.till) end
  if seq and high then high = math.min(seq, high) end
  local function bound(at, none) return at and string.format('(%.0f', at) or none end
  return merged(query.names, limit, bound(high or seq, '+inf'), true, bound(low, '-inf'))
end
