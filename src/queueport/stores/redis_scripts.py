"""The scripts of the Redis store, each one atomic step on the server. For readers of the store.

A script is what all have in common and a body. Its arguments are the record version that this queueport knows and the
clock ('' for the server's own), then those of the body.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from queueport.stores.redis_lua import PRELUDE

__all__ = [
    "ANNOUNCE",
    "ASIDE",
    "CLAIM_DUE",
    "COUNT",
    "FIND",
    "GET",
    "INSERT",
    "NOW",
    "OVERFLOW",
    "STATS",
    "UNRECEIVED",
    "WORKERS",
    "WRITE",
]

END = """
local fine, answer = pcall(body)
close() -- what was written is counted, whatever came after it
if fine or type(answer) == 'table' then return answer end
return redis.error_reply(answer)
"""


@dataclass(frozen=True, slots=True)
class Script:
    """What runs on the server, and the name under which the server remembers it."""

    body: str
    text: bytes = field(init=False, repr=False)
    sha: bytes = field(init=False)

    def __post_init__(self) -> None:
        text = f"{PRELUDE}\nlocal function body()\n{self.body}\nend\n{END}".encode()
        object.__setattr__(self, "text", text)
        object.__setattr__(self, "sha", hashlib.sha1(text, usedforsecurity=False).hexdigest().encode())


# Until when, n, then n times: id, change, the number of commands that go along, each after the number of its words.
# Answers: the time, then n times: 1 | 0 refused | 2 key held | 3 a command failed, the record met or the error; or
# the time alone, where it is too late.
INSERT = Script("""
local till, n = tonumber(take()), tonumber(take())
if now > till then return {exact(now)} end
local seq = call('HINCRBY', P .. 'counters', 'seq', n) - n
local answers = {exact(now)}
for i = 1, n do
  local id, c = take(), change()
  local along = {}
  for j = 1, tonumber(take()) do
    along[j] = {}
    for k = 1, tonumber(take()) do along[j][k] = take() end
  end
  local outcome, met = 0, load(id)
  if not met then
    c.set.seq = string.format('%.0f', seq + i)
    local new, holder = apply(id, {}, c)
    outcome, met = new and 1 or 2, holder
    for _, command in ipairs(new and along or {}) do
      local answer = redis.pcall(unpack(command))
      if type(answer) == 'table' and answer.err then
        apply(id, new, {processed = -c.processed, failed = -c.failed, delete = true})
        outcome, met = 3, answer.err
        break
      end
    end
  end
  answers[#answers + 1] = outcome
  answers[#answers + 1] = outcome == 3 and met or whole(met) or false
end
return answers
""")

# The condition's kind (rev | token | startable) and n, then n times: id, what the condition compares, change.
# Answers: n times: 1 | 0 | 2, the record as it is now, or as it was met.
WRITE = Script("""
local kind, n = take(), tonumber(take())
local answers = {}
for _ = 1, n do
  local id, expected, c = take(), take(), change()
  local old = load(id)
  local holds = old ~= nil
  if not holds then
    holds = false -- nothing to compare
  elseif kind == 'rev' then
    holds = (old.rev or '') == expected
  elseif kind == 'token' then
    holds = old.state == 'running' and old.token == expected
  else
    local lasts = not old.expires_at or (tonumber(old.expires_at) or now) > now
    holds = old.state == 'queued' and lasts and (tonumber(old.v) or 1) <= VERSION
    c.set.attempts = string.format('%.0f', (tonumber(old.attempts) or 0) + 1)
  end
  local outcome, met = 0, old
  if holds then
    local new, holder = apply(id, old, c)
    outcome, met = new and 1 or 2, new or holder
  end
  answers[#answers + 1] = outcome
  answers[#answers + 1] = met and met.id and whole(met) or false -- without an id: deleted
end
return answers
""")

# n, then n ids. Answers: n records.
GET = Script("""
local answers = {}
for i = 1, tonumber(take()) do answers[i] = whole(load(take())) or false end
return answers
""")

# Limit, seconds, rev, 1 with leases. Answers: more than 0 if there are records of a newer queueport, then the claimed.
CLAIM_DUE = Script("""
local limit, seconds, rev, leases = tonumber(take()), tonumber(take()), take(), take() == '1'
local found = {}
for version = 1, VERSION do
  for _, kind in ipairs(leases and {'due:', 'leases:'} or {'due:'}) do
    local place = kind .. version
    local page = call('ZRANGEBYSCORE', P .. place, '-inf', exact(now), 'WITHSCORES', 'LIMIT', 0, limit)
    for i = 1, #page, 2 do found[#found + 1] = {place = place, entry = page[i], at = tonumber(page[i + 1])} end
  end
end
table.sort(found, function(a, b) return a.at < b.at or (a.at == b.at and a.entry < b.entry) end)
local newer = call('EXISTS', P .. 'due:' .. VERSION + 1, P .. 'leases:' .. VERSION + 1)
local claimed, wake_at = {newer}, exact(now + seconds)
for _, one in ipairs(found) do
  if #claimed > limit then break end
  local r = load(id_of(one.entry))
  if r then
    r.wake_at, r.rev = wake_at, rev
    call('HSET', P .. 'job:' .. r.id, 'wake_at', wake_at, 'rev', rev)
    call('ZADD', P .. one.place, wake_at, one.entry)
    claimed[#claimed + 1] = whole(r)
  else
    sweep(one.entry)
  end
end
return claimed
""")

# State, queue, task, error ('' for any). Answers: how many match.
COUNT = Script("""
local _, total = matching(take(), take(), take(), take())
return total
""")

# State, queue, task, error, finished_before ('' for any), the id of the last one seen, or else its number, how many to
# look at, `whole` or only `marked`. Answers: the number to go on after ('' at the end), then the records, newest first.
FIND = Script("""
local names = matching(take(), take(), take(), take())
local before, after, number, limit, form = tonumber(take()), take(), take(), tonumber(take()), take()
if after ~= '' then number = call('HGET', P .. 'job:' .. after, 'seq') end
if not number then return {''} end
local entries = merged(names, limit, number == '' and '+inf' or '(' .. number, true)
local answers = {#entries == limit and number_of(entries[limit]) or ''}
for _, entry in ipairs(entries) do
  local finished = before and call('HGET', P .. 'job:' .. id_of(entry), 'finished_at')
  if not before or (finished and (tonumber(finished) or before) < before) then
    local record = form == 'marked' or whole(load(id_of(entry)))
    if record then answers[#answers + 1] = record else sweep(entry) end
  end
end
return answers
""")

# State, how many to keep, limit. Answers: records, oldest first.
OVERFLOW = Script("""
local names, total = matching(take(), '', '', '')
local keep, limit = tonumber(take()), tonumber(take())
local answers = {}
for _, entry in ipairs(merged(names, math.min(limit, total - keep), '-inf', false)) do
  local record = whole(load(id_of(entry)))
  if record then answers[#answers + 1] = record else sweep(entry) end
end
return answers
""")

# Queue, priority, sent before, limit. Answers: records.
UNRECEIVED = Script("""
local queue, priority, before, limit = take(), take(), take(), tonumber(take())
local found, answers = {}, {}
for version = 1, VERSION do
  local place = P .. 'sent:' .. version .. ':' .. queue .. ':' .. priority
  local page = call('ZRANGEBYSCORE', place, '-inf', '(' .. before, 'WITHSCORES', 'LIMIT', 0, limit)
  for i = 1, #page, 2 do found[#found + 1] = {entry = page[i], at = tonumber(page[i + 1])} end
end
table.sort(found, function(a, b) return a.at < b.at or (a.at == b.at and a.entry < b.entry) end)
for _, one in ipairs(found) do
  if #answers == limit then break end
  local record = whole(load(id_of(one.entry)))
  if record then answers[#answers + 1] = record else sweep(one.entry) end
end
return answers
""")

# Answers: the time, processed, failed, the queues, the counts by place, the time of the first in each `queued` place.
STATS = Script("""
local counts, heads = call('HGETALL', P .. 'counts'), {}
for i = 1, #counts, 2 do
  if string.sub(counts[i], 1, 7) == 'queued:' then
    heads[#heads + 1] = counts[i]
    heads[#heads + 1] = call('ZRANGE', P .. counts[i], 0, 0, 'WITHSCORES')[2] or 'inf'
  end
end
local kept = call('HMGET', P .. 'counters', 'processed', 'failed')
return {exact(now), kept[1] or '0', kept[2] or '0', call('SMEMBERS', P .. 'queues'), counts, heads}
""")

# Name, what it says, seconds until it is forgotten.
ANNOUNCE = Script("""
local name, said, seconds = take(), take(), tonumber(take())
call('ZADD', P .. 'workers', exact(now + seconds), name)
call('HSET', P .. 'worker', name, exact(now) .. ' ' .. said)
for _, silent in ipairs(call('ZRANGEBYSCORE', P .. 'workers', '-inf', exact(now))) do
  call('ZREM', P .. 'workers', silent)
  call('HDEL', P .. 'worker', silent)
end
return 1
""")

# Answers: name and time and what it said, for each worker.
WORKERS = Script("""
local answers = {}
for _, name in ipairs(call('ZRANGEBYSCORE', P .. 'workers', '(' .. exact(now), '+inf')) do
  answers[#answers + 1] = name
  answers[#answers + 1] = call('HGET', P .. 'worker', name)
end
return answers
""")

# Id, the rev it was read with, why it cannot be read. Answers: 1 if it was put aside, 0 if it stays.
ASIDE = Script("""
local id, rev, reason = take(), take(), take()
local old = load(id)
if not old or (old.rev or '') ~= rev or (tonumber(old.v) or 0) > VERSION then return 0 end
call('RENAME', P .. 'job:' .. id, P .. 'aside:' .. id)
call('HSET', P .. 'aside:' .. id, 'aside_reason', reason)
call('ZADD', P .. 'aside', exact(now), id)
release(old, id)
move(member(old, id), places(old), {})
call('PUBLISH', P .. 'ended:' .. id, '')
return 1
""")

# Answers: the time.
NOW = Script("return exact(now)")
