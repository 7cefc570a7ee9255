"""The Lua scripts of the Redis store, and their loader. For those who change the store.

Each file except `prelude.lua` and `searches.lua` is a verb of the store, or a step of a verb. Redis runs each script as
one atomic step. A call of a verb runs its script once for each batch of items or page of records. The conventions:

- `prelude.lua` contains the local functions that verbs share. Its text is put in front of each verb, because a Redis
  script cannot load another script. `searches.lua` is put between both for the verbs in SEARCHES. Other verbs do
  without it, because Redis creates all functions of a script anew for each run.
- A verb's file is the body of a function. Its first comment lists the arguments and the answer. The function reads its
  arguments in order with `argument()` and `number()`. Verbs change records with `apply_change`, which also
  updates indexes and counts; only `claim_due` and `aside` write without it.
- The first argument of every script is the newest record version that this queueport knows. The second is the time,
  which only tests give: if it is empty, the server's clock is used. The prelude reads both before the verb starts.
- `run`, at the end of the prelude, calls the verb's function and then writes the changed counts, even after an
  error, because Redis does not undo the writes of a script that fails.

Every key of the store begins with `{NAMESPACE}:`. A script receives only this prefix as its key. The braces make a
cluster keep all keys of a namespace on one node.

  job:ID       hash     `v` and the fields of the record, except `id`, that differ from their defaults; and two more:
                        `seq`, the insertion number, and `error`, the names of the newest error's class and of the
                        ancestors of this class (absent if there is no error)
  INDEX        zset     an entry, SEQ (13 digits) + ID, for each job in the index:
      listed:STATE:QUEUE:TASK          all jobs of the state, queue and task, by seq
      errors:STATE:QUEUE:ERROR:TASK    jobs with an error, by seq
      queued:QUEUE:PRIORITY            queued jobs, by queued_at
      sent:VERSION:QUEUE:PRIORITY      queued jobs whose message was sent, by sent_at
      due:VERSION                      jobs that have a wake_at and are not running, by wake_at
      leases:VERSION                   running jobs that have a wake_at, by wake_at
  keyed:KEY, tagged:STATE:TAG      zset     such entries of the jobs with the key, or with the state and the tag, by seq
  slots:LIMIT      zset     such entries of the running jobs that use a slot of the limit, by seq
  held:LIMIT       zset     such entries of the jobs that wait for the limit, by priority and queued_at
  passed:LIMIT     zset     such entries of the jobs that were let on and have not begun, by seq
  held         set      the limits for which jobs wait
  rates        zset     names of limits, by the time at which all starts of the burst are free again
  counts       hash     the number of entries of each INDEX that is not empty
  queues       set      every queue that was ever used
  keys         hash     TASK, a NUL, KEY: the id of the job that holds the key
  kept         hash     TASK, a NUL, KEY: the id of the ended job that keeps the key
  kept:until   zset     TASK, a NUL, KEY, by the time until which an ended job keeps the key
  counters     hash     seq, processed, failed
  history:STEP     zset     starts of the minutes (STEP 60) or hours (3600) that have numbers; a start is also its score
  history:STEP:AT  hash     the numbers of such an interval: `NAME:QUEUE:TASK`; and `:QUEUE:TASK` for each pair of queue
                            and task that is counted separately, and `places`, the number of these pairs
  workers      zset     names of workers, by the time until which they count as live
  worker       hash     NAME: the time of the worker's last announcement, a space, the worker's queues and tasks as JSON
  documents:KIND  hash  NAME: the rev of the document, a space, its value as JSON
  aside        zset     ids of jobs whose damaged records were put aside, and KIND:NAME of damaged documents, by the
                        time at which they were put aside
  aside:ID     hash     such a record, or the text of such a document in the field `document`, with `aside_reason`;
                        a further record of one id, or document of one KIND:NAME, is `ID:TIME`, also in `aside`
  check        any      written and deleted by `check`
  ended:ID     channel  gets a message when the job becomes final, is removed or is put aside

VERSION is the version of the record. `claim_due` and `unreceived` read only the indexes of the versions that this
release knows, so both ignore records that a newer release wrote. `claim_due` also tells whether there are such records.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from importlib import resources
from typing import Self

__all__ = ["Script", "script"]


@dataclass(frozen=True, slots=True)
class Script:
    """The text of a script, and its SHA-1, which identifies the script on a server that has loaded it."""

    text: bytes
    sha: bytes

    @classmethod
    def of(cls, text: bytes) -> Self:
        return cls(text, hashlib.sha1(text, usedforsecurity=False).hexdigest().encode())


SEARCHES = {"claim_due", "count", "find", "overflow", "unreceived"}
"""The verbs that use the functions of `searches.lua`."""


@functools.cache
def script(verb: str) -> Script:
    """Load the script of a verb: the shared functions, then a call of `run` with the verb's file as a function.

    Raises OSError if a file cannot be read.
    """
    shared = ("prelude", "searches") if verb in SEARCHES else ("prelude",)
    *parts, body = ((resources.files(__name__) / f"{name}.lua").read_text("utf-8") for name in (*shared, verb))
    return Script.of("\n".join([*parts, "return run(function()", body, "end)\n"]).encode())
