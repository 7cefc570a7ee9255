"""The documents of the DynamoDB store: small named values beside the jobs. For readers of the store.

An item lists the names of all documents of a kind, because an index would lag behind the table. To add or delete a
document is a transaction with the list; to change one is a single update.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from queueport.spi import storage
from queueport.spi.record import CorruptRecord
from queueport.spi.store import Document
from queueport_sqs.dynamodb.batch import BesideFailed
from queueport_sqs.dynamodb.commit import Action, Commit, Failed, Write
from queueport_sqs.dynamodb.records import Item, value

__all__ = ["Documents"]

log: logging.Logger = logging.getLogger(__name__)


class Documents:
    """The documents of one namespace."""

    def __init__(self, commit: Commit) -> None:
        self._commit, self._table, self._names = commit, commit.table, commit.names

    def read(self, kind: str, now: float) -> list[Document]:
        """The documents of a kind, sorted by name. Puts those aside that cannot be read; `now` is the present time."""
        place = self._names.documents(kind)
        names = self._table.get([place]).get(place, {}).get("names", {}).get("SS", ())
        keys = {self._names.document(kind, name): name for name in sorted(names)}
        items = self._table.get(list(keys))
        found = []
        for key, name in keys.items():
            item = items.get(key)
            if item is None:
                continue
            try:
                rev, text = (item.get(field, {}).get("S") for field in ("rev", "value"))
                found.append(storage.document(kind, name, rev, text))
            except CorruptRecord as error:
                self._put_aside(kind, name, item, str(error), now)
        return found

    def putting(self, document: Document, expected: str | None) -> list[Action]:
        """The actions that write a document. The first fails if the document does not have the expected rev."""
        key = self._names.document(document.kind, document.name)
        rev, text = value(document.rev), value(storage.document_text(document.value))
        if expected is None:
            item = {"pk": value(key), "rev": rev, "value": text}
            put = self._commit.action("Put", Item=item, ConditionExpression="attribute_not_exists(pk)")
            return [put, self._listing("ADD", document.kind, document.name)]
        update = self._commit.action(
            "Update",
            key,
            UpdateExpression="SET rev = :rev, #value = :value",
            ConditionExpression="rev = :expected",
            ExpressionAttributeNames={"#value": "value"},
            ExpressionAttributeValues={":rev": rev, ":value": text, ":expected": value(expected)},
        )
        return [update]

    def put(self, actions: Sequence[Action]) -> None:
        """Run the actions of `putting`. Raises BesideFailed."""
        done = self._commit([Write("", actions)])[""]
        if isinstance(done, Failed):
            raise BesideFailed(done.found.get(0))

    def delete(self, kind: str, name: str, expected: str) -> bool:
        """Delete a document if its rev is the expected one. Returns whether it was deleted."""
        return self._removed(kind, name, value(expected))

    def _removed(self, kind: str, name: str, rev: dict[str, Any] | None, more: Sequence[Action] = ()) -> bool:
        delete = self._commit.delete(self._names.document(kind, name), "rev", rev)
        actions = [delete, self._listing("DELETE", kind, name), *more]
        return not isinstance(self._commit([Write("", actions)])[""], Failed)

    def _listing(self, verb: str, kind: str, name: str) -> Action:
        return self._commit.action(
            "Update",
            self._names.documents(kind),
            UpdateExpression=f"{verb} #names :name",
            ExpressionAttributeNames={"#names": "names"},
            ExpressionAttributeValues={":name": {"SS": [name]}},
        )

    def _put_aside(self, kind: str, name: str, item: Item, reason: str, now: float) -> None:
        place = self._names.aside(f"{kind}#{name}", now)
        notes = {"pk": value(place), "reason_aside": value(reason), "at_aside": value(now)}
        if self._removed(kind, name, item.get("rev"), [self._commit.action("Put", Item={**item, **notes})]):
            log.warning("a document was put aside as the item %s of %s: %s", place, self._table.what, reason)
