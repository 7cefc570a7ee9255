"""Sending messages in batches, and what became of each. For the transport."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from botocore.exceptions import ClientError

from queueport.driver import SendOutcome, Sent
from queueport.errors import BackendUnavailable, PayloadTooLarge
from queueport_sqs.client import refused_for_certain, unavailable
from queueport_sqs.entries import LARGEST, Entry, batches
from queueport_sqs.queues import Queues

__all__ = ["Sending"]

AT_ONCE = 8
"""Batches of one long send that are on their way at once: most of a batch's time is waiting, and at 15 ms each eight at
once carried six times as much as one."""
QUICK = 0.2
"""Share of `call_timeout` within which a batch must have failed to be sent once more: then only the connection was
stale, or one machine of the service had an error."""
SENT = Sent(SendOutcome.SENT)


class Sending:
    """Sends to the queues of one namespace. Thread-safe.

    `where` is how errors name the service; `ordered`: batches leave one after the other, as groups need it.
    """

    def __init__(self, queues: Queues, where: str, *, call_timeout: float, ordered: bool) -> None:
        self._queues = queues
        self._where = where
        self._call_timeout = call_timeout
        self._ordered = ordered

    def send(self, queue: str, entries: Sequence[Entry], *, dead: bool = False) -> list[Sent]:
        """Send them; an outcome for each, in order. Never raises.

        A call that is not answered ends the whole: what was not sent then never is, and so it ends in time.
        """
        outcomes = [self._refused(entry) for entry in entries]
        fitting = [place for place, refused in enumerate(outcomes) if refused is None]
        made = [[fitting[i] for i in batch] for batch in batches([entries[place].size for place in fitting])]
        broken: list[BackendUnavailable] = []

        def run(places: list[int]) -> None:
            if broken:
                answers = [Sent(SendOutcome.FAILED, broken[0])] * len(places)
            else:
                answers = self._send(queue, [entries[place] for place in places], dead, broken)
            for place, answer in zip(places, answers, strict=True):
                outcomes[place] = answer

        if len(made) < 2 or self._ordered:
            for places in made:
                run(places)
        else:
            with ThreadPoolExecutor(min(AT_ONCE, len(made)), "queueport-send") as threads:
                list(threads.map(run, made))
        return [Sent(SendOutcome.UNKNOWN) if outcome is None else outcome for outcome in outcomes]

    def _refused(self, entry: Entry) -> Sent | None:
        if entry.size <= LARGEST:
            return None
        said = f"a message of {entry.size} bytes with its attributes is too large for SQS {self._where}, which takes "
        return Sent(SendOutcome.FAILED, PayloadTooLarge(f"{said}{LARGEST}: keep large data elsewhere and pass its key"))

    def _send(self, queue: str, batch: Sequence[Entry], dead: bool, broken: list[BackendUnavailable]) -> list[Sent]:
        """One batch; sent again where it failed at once and may go well now, for a repeated message is harmless."""
        fields = [{"Id": str(place), **entry.fields} for place, entry in enumerate(batch)]
        started, before = time.monotonic(), False
        while True:
            try:
                answer = self._queues.call("send_message_batch", queue, dead=dead, Entries=fields)
                return self._outcomes(answer, len(batch), before)
            except BackendUnavailable as error:
                certain = error.__cause__ is None or refused_for_certain(error.__cause__)
                if not certain and not before and time.monotonic() - started < QUICK * self._call_timeout:
                    before = True
                    continue
                broken.append(error)
                outcome = SendOutcome.FAILED if certain and not before else SendOutcome.UNKNOWN
                return [Sent(outcome, error)] * len(batch)

    def _outcomes(self, answer: Any, count: int, before: bool) -> list[Sent]:
        """What SQS says of each entry. Failed by its sender's fault it is refused; by the service's, nobody knows."""
        said: dict[str, Sent] = {entry["Id"]: SENT for entry in answer.get("Successful", ())}
        for entry in answer.get("Failed", ()):
            error = ClientError({"Error": {"Code": entry["Code"], "Message": entry.get("Message", "")}}, "SendMessage")
            told = unavailable(f"SQS {self._where}", error)
            told.__cause__ = error
            certain = entry.get("SenderFault", False) and not before
            said[entry["Id"]] = Sent(SendOutcome.FAILED if certain else SendOutcome.UNKNOWN, told)
        return [said.get(str(place), Sent(SendOutcome.UNKNOWN)) for place in range(count)]
