"""What the page on idempotency assumes: a bank that knows idempotency keys, a mail server, and a database."""

import sqlite3

import pytest

__all__ = ["bank", "database", "mail", "pytest", "search"]


class Bank:
    def __init__(self) -> None:
        self.charges: list[tuple[int, int]] = []
        self._receipts: dict[str, str] = {}
        self._fails = False

    def fail_after_the_next_charge(self) -> None:
        self._fails = True

    def charge(self, order: int, cents: int, idempotency_key: str) -> str:
        if idempotency_key not in self._receipts:
            self.charges.append((order, cents))
            self._receipts[idempotency_key] = f"receipt {len(self.charges)}"
        if self._fails:
            self._fails = False
            raise ConnectionError("the answer of the bank was lost")
        return self._receipts[idempotency_key]


class Mail:
    def __init__(self) -> None:
        self._fails = False

    def fail_once(self) -> None:
        self._fails = True

    def send(self, customer: int, text: str) -> None:
        if self._fails:
            self._fails = False
            raise ConnectionError("the mail server does not answer")


class Search:
    def __init__(self) -> None:
        self.puts: list[tuple[int, int]] = []

    def put(self, document: int, version: int) -> None:
        self.puts.append((document, version))


bank = Bank()
mail = Mail()
search = Search()
database = sqlite3.connect(":memory:", check_same_thread=False)
database.executescript("CREATE TABLE done (id TEXT PRIMARY KEY); CREATE TABLE customers (id INTEGER, points INTEGER);")
database.execute("INSERT INTO customers VALUES (1, 0)")
database.commit()
