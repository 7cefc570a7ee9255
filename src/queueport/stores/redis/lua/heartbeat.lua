-- Extend the leases of running jobs that have the expected token. Arguments and answers: see change_each.
return change_each(function(record, expected) return record.state == 'running' and record.token == expected end)
