"""The task of the quickstart, which measures a text file as `wc -l -w -c` and `sha256sum` do."""

import codecs
import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

from queueport import Retry, current_job, task

BLOCK = 2**20
"""Bytes to read at once, so that memory use does not depend on the size of the file."""
WORD = re.compile(r"[^\t-\r \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u2060\u3000]+")
"""A word as `wc -w` counts it in a UTF-8 locale: a longest sequence of characters that are not white space."""


class NotTextError(Exception):
    """The file is not UTF-8 text, and a retry would not help."""


class BusyError(Exception):
    """Another program uses the file; a retry may help."""


@dataclass(frozen=True, slots=True)
class Measured:
    """The measurements of one file."""

    size: int
    sha256: str
    lines: int
    words: int


@task(retry=Retry(max_attempts=3, initial=0.5, factor=2.0, abort_on=(NotTextError,)))
def measure(uri: str, busy: bool = False) -> Measured:
    """Measure the file at a `file://` URI. A URI can hold a file name that is not Unicode, which JSON cannot.

    If `busy` is true the first attempt fails, as if another program used the file.
    """
    if busy and current_job().attempt == 1:
        raise BusyError("another program uses the file (as the quickstart pretends)")
    path = Path(os.fsdecode(unquote_to_bytes(urlsplit(uri).path)))
    sha256 = hashlib.sha256()
    text = TextCount()
    with path.open("rb") as file:
        total = os.fstat(file.fileno()).st_size
        while block := file.read(BLOCK):
            sha256.update(block)
            text.add(block)
            current_job().progress(file.tell(), total)
        size = file.tell()
    text.end()
    return Measured(size, sha256.hexdigest(), text.lines, text.words)


class TextCount:
    """Counts lines and words of UTF-8 text that is added in blocks. Raises NotTextError."""

    def __init__(self) -> None:
        self.lines = 0
        self.words = 0
        self._in_word = False
        self._decode = codecs.getincrementaldecoder("utf-8")().decode

    def add(self, block: bytes) -> None:
        """Count the next block. A word or a character may continue in the block after it."""
        text = self._decoded(block)
        if text:
            begun_before = self._in_word and WORD.match(text) is not None
            self.lines += text.count("\n")
            self.words += len(WORD.findall(text)) - int(begun_before)
            self._in_word = WORD.match(text[-1]) is not None

    def end(self) -> None:
        """End the text. Raises NotTextError if its last character is incomplete."""
        self._decoded(b"", final=True)

    def _decoded(self, block: bytes, final: bool = False) -> str:
        if b"\0" in block:
            raise NotTextError("a binary file: it contains a NUL byte")
        try:
            return self._decode(block, final)
        except UnicodeDecodeError as error:
            raise NotTextError(f"not UTF-8 text: {error.reason}") from None
