-- Answers: the time, processed, failed, all queues, the counts by index, and for each `queued` index the queued_at of
-- its first entry (inf: none).
local counts, heads = call('HGETALL', key('counts')), {}
for i = 1, #counts, 2 do
  if string.sub(counts[i], 1, 7) == 'queued:' then
    heads[#heads + 1] = counts[i]
    heads[#heads + 1] = call('ZRANGE', key(counts[i]), 0, 0, 'WITHSCORES')[2] or 'inf'
  end
end
local kept = call('HMGET', key('counters'), 'processed', 'failed')
return {exact(now), kept[1] or '0', kept[2] or '0', call('SMEMBERS', key('queues')), counts, heads}
