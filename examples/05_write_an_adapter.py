"""A complete adapter that uses a folder as a broker. A message is a file, and a worker that receives it locks the file.

    FOLDER/NAMESPACE/queues/QUEUE/    messages, delivered in the order of their names
    FOLDER/NAMESPACE/dead/QUEUE/      dead-letter copies; a copy that is moved to its queue runs again
    FOLDER/NAMESPACE/aside/QUEUE/     messages that were put aside

Its entry point is in `spool-1.0.dist-info`, as if pip had installed it, so queueport finds it if this folder is on
Python's path. `tests/contract/test_spool.py` runs the contract suite on it. Run as a script, it prints:

    spool has depth, native_dead_letters, persistent, priority, threads
    2 messages wait as files
    add returned 5, and the other job is dead: FileNotFoundError
    after `mv` to its queue: succeeded with 2 lines at attempt 2
"""

import fcntl
import random
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import IO, Self

from pydantic import BaseModel, ConfigDict, Field

from queueport import Capability, Retry, get_queue
from queueport.errors import BackendUnavailable, ConfigurationError
from queueport.spi.message import Depth, Message, SendOutcome, SendResult
from queueport.spi.settings import Settings, options
from queueport.spi.store import JobStore
from queueport.spi.transport import Delivery, Transport
from queueport.spi.url import BackendURL
from tasks import add, count_lines


class SpoolOptions(BaseModel):
    """The options of `spool:///` URLs. Any other option is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    poll: float = Field(0.02, gt=0, le=1, description="seconds between two checks of an idle worker")


class SpoolTransport(Transport):
    """Sends and receives messages as files. When a process ends, others can receive its messages."""

    name = "spool"
    capabilities = frozenset(Capability) - {Capability.GROUPS}
    settings = SpoolOptions

    def __init__(self, root: Path, poll: float) -> None:
        self._root = root
        self._poll = poll

    @classmethod
    def open(cls, url: BackendURL, settings: Settings, store: JobStore) -> Self:
        if url.parts.netloc or not url.path:
            raise ConfigurationError(f"{url} names no folder: write 'spool:///jobs', or 'spool:////var/spool/jobs'")
        return cls(Path(url.path).absolute() / settings.namespace, options(url, SpoolOptions).poll)

    @classmethod
    def default_store(cls, url: BackendURL) -> str | None:
        return f"sqlite:///{url.text.partition(':///')[2].rstrip('/')}.db"

    def send(self, queue: str, messages: Sequence[Message]) -> Sequence[SendResult]:
        outcomes = []
        for message in messages:
            name = f"{10 - message.priority:02}-{time.time_ns():020}-{message.id}"
            try:
                self._write(self._root / "queues" / queue / name, message.body)
                outcomes.append(SendResult(SendOutcome.SENT))
            except OSError as error:
                outcomes.append(SendResult(SendOutcome.FAILED, error))
        return outcomes

    def receive(self, queues: Sequence[str], limit: int, wait: float) -> Sequence[Delivery]:
        deadline = time.monotonic() + wait
        with self._reached():
            while not (taken := self._take(queues, limit)) and time.monotonic() < deadline:
                time.sleep(self._poll)
            return taken

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        with self._reached():
            for delivery in deliveries:
                with delivery.receipt as file:
                    Path(file.name).unlink(missing_ok=True)

    def put_aside(self, delivery: Delivery) -> None:
        with self._reached(), delivery.receipt as file:
            aside = self._root / "aside" / delivery.queue
            aside.mkdir(parents=True, exist_ok=True)
            Path(file.name).rename(aside / Path(file.name).name)

    def depth(self, queue: str) -> Depth | None:
        with self._reached():
            return Depth(len(self._waiting(queue)))

    def bury(self, queue: str, messages: Sequence[Message]) -> None:
        with self._reached():
            for message in messages:
                self._write(self._root / "dead" / queue / message.id, message.body)

    def unbury(self, queue: str, messages: Sequence[Message]) -> None:
        with self._reached():
            for message in messages:
                (self._root / "dead" / queue / message.id).unlink(missing_ok=True)

    def purge(self, queue: str) -> None:
        with self._reached():
            for path in self._waiting(queue):
                path.unlink(missing_ok=True)

    def check(self) -> Sequence[str]:
        with self._reached():
            self._root.mkdir(parents=True, exist_ok=True)
            TemporaryFile(dir=self._root).close()
            return ()

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise BackendUnavailable(f"the spool {self._root} cannot be used ({error}): check the folder") from error

    def _write(self, path: Path, body: bytes) -> None:
        """Write a file outside the queue and then move it there, so that no worker reads an incomplete file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = self._root / f"draft-{secrets.token_hex(8)}"
        try:
            draft.write_bytes(body)
            draft.rename(path)
        finally:
            draft.unlink(missing_ok=True)

    def _waiting(self, queue: str) -> list[Path]:
        try:
            return sorted((self._root / "queues" / queue).iterdir())
        except FileNotFoundError:
            return []

    def _take(self, queues: Sequence[str], limit: int) -> list[Delivery]:
        taken: list[Delivery] = []
        for queue in random.sample(queues, len(queues)):  # a queue that is never empty must not block the others
            for path in self._waiting(queue):
                if len(taken) == limit:
                    return taken
                file = _locked(path)
                if file is not None:
                    taken.append(Delivery(file.read(), queue, file))
        return taken


def _locked(path: Path) -> IO[bytes] | None:
    """Open the file and lock it until it is closed. Returns None if another worker has locked or acknowledged it."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.exists():  # another worker may have acknowledged the message, and so deleted the file, after the open
            return file
    except BlockingIOError:
        pass
    file.close()
    return None


def main(folder: Path) -> None:
    """Enqueue and run two jobs, and redrive a dead-letter copy by moving its file."""
    lines, spool = folder / "lines.txt", folder / "spool" / "queueport"
    with get_queue(f"spool:///{folder}/spool") as queue:
        print(f"{queue.backend} has {', '.join(sorted(queue.capabilities))}")
        good = queue.enqueue(add, 2, 3)
        bad = queue.enqueue(count_lines.using(retry=Retry(max_attempts=1)).job(str(lines)))
        print(f"{len(list((spool / 'queues' / 'default').iterdir()))} messages wait as files")

        queue.worker(burst=True).run()
        error = bad.status().error
        print(f"add returned {good.result()}, and the other job is {bad.status().state}: {error and error.type}")

        lines.write_text("all\nwell\n")
        (spool / "dead" / "default" / bad.id).rename(spool / "queues" / "default" / bad.id)
        queue.worker(burst=True).run()
        status = bad.status()
        print(f"after `mv` to its queue: {status.state} with {status.result} lines at attempt {status.attempts}")


if __name__ == "__main__":
    with TemporaryDirectory() as place:
        main(Path(place))
