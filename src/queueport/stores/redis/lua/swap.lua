-- Change or delete records that have the expected rev. Arguments and answers: see change_each, with
-- `asks_known`.
return change_each(function(record, expected) return (record.rev or '') == expected end, true)
