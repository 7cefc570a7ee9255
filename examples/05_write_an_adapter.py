"""A complete adapter: a folder as a broker. A message is a file, and whoever has its lock has received it.

    FOLDER/NAMESPACE/queues/QUEUE/    what waits, in the order of its names; locked while a worker takes it in
    FOLDER/NAMESPACE/dead/QUEUE/      copies of dead jobs: `mv` one to its queue, and it runs again
    FOLDER/NAMESPACE/aside/QUEUE/     what is no message of queueport's

Its entry point stands in `spool-1.0.dist-info`, where pip would write it, so it is installed wherever this folder is on
Python's path. The contract suite runs on it in `tests/contract/test_spool.py`. Run as a script, it prints:

    spool has depth, native_dead_letters, persistent, priority, threads
    2 messages wait as files
    add returned 5, and the other job is dead: FileNotFoundError
    after `mv` to its queue: succeeded with 2 lines at attempt 2
"""

import fcntl
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import IO, Self

from pydantic import BaseModel, ConfigDict, Field

from queueport import Capability, Retry, get_queue
from queueport.driver import Depth, SendOutcome, Sent
from queueport.errors import BackendUnavailable, ConfigurationError
from queueport.message import Message
from queueport.settings import Settings
from queueport.transport import Delivery, Transport
from queueport.url import BackendURL
from tasks import add, count_lines


class SpoolOptions(BaseModel):
    """The options of `spool:///` URLs; another one is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    poll: float = Field(0.02, gt=0, le=1, description="seconds between two looks of an idle worker")


class SpoolTransport(Transport):
    """Messages are files below a folder of this machine. A process that dies lets go of its locks, and they return."""

    name = "spool"
    capabilities = frozenset(
        {Capability.PRIORITY, Capability.DEPTH, Capability.PERSISTENT, Capability.NATIVE_DEAD_LETTERS}
    )
    settings = SpoolOptions

    def __init__(self, root: Path, poll: float) -> None:
        self._root = root
        self._poll = poll

    @classmethod
    def open(cls, url: BackendURL, settings: Settings) -> Self:
        if url.parts.netloc or not url.path:
            raise ConfigurationError(f"{url} names no folder: write 'spool:///jobs', or 'spool:////var/spool/jobs'")
        return cls(Path(url.path).absolute() / settings.namespace, url.settings(SpoolOptions).poll)

    @classmethod
    def default_store(cls, url: BackendURL) -> str | None:
        return f"sqlite:///{url.text.partition(':///')[2].rstrip('/')}.db"

    def send(self, queue: str, messages: Sequence[Message]) -> Sequence[Sent]:
        outcomes = []
        for message in messages:
            name = f"{10 - message.priority:02}-{time.time_ns():020}-{message.id}"
            try:
                self._write(self._root / "queues" / queue / name, message.body)
                outcomes.append(Sent(SendOutcome.SENT))
            except OSError as error:
                outcomes.append(Sent(SendOutcome.FAILED, error))
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

    def bury(self, messages: Sequence[Message]) -> None:
        with self._reached():
            for message in messages:
                self._write(self._root / "dead" / message.queue / message.id, message.body)

    def unbury(self, messages: Sequence[Message]) -> None:
        with self._reached():
            for message in messages:
                (self._root / "dead" / message.queue / message.id).unlink(missing_ok=True)

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
            raise BackendUnavailable(f"the spool {self._root} cannot be used: {error}") from error

    def _write(self, path: Path, body: bytes) -> None:
        """Nobody sees half a file: it is written beside the queues, and then moved there."""
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
        for queue in queues:
            for path in self._waiting(queue):
                if len(taken) == limit:
                    return taken
                file = _locked(path)
                if file is not None:
                    taken.append(Delivery(file.read(), queue, file))
        return taken


def _locked(path: Path) -> IO[bytes] | None:
    """The file, open and locked until it is closed; None where another worker has it, or has done with it."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.exists():  # else its holder acknowledged it between the two lines above
            return file
    except BlockingIOError:
        pass
    file.close()
    return None


def main(folder: Path) -> None:
    """Enqueue, run, and redrive a dead letter without any help of queueport's."""
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
