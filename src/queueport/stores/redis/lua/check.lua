-- Write and delete a key with each command by which an insert writes. Fails if the server refuses such a command.
-- Answer: 1.
local commands = {{'HINCRBY', 'n', 1}, {'HSET', 'f', 'v'}, {'ZADD', 1, 'e'}, {'SADD', 'q'}}
for _, command in ipairs(commands) do
  call(command[1], key('check'), unpack(command, 2))
  call('DEL', key('check'))
end
return 1
