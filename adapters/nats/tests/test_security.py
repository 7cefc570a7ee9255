"""TLS with and without a client's certificate, and credentials files, on private servers."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import nkeys  # type: ignore[import-untyped]
import pytest
import trustme

from adapters.nats.tests.conftest import Opener, ids, message, received
from queueport.errors import BackendUnavailable
from queueport.spi.message import SendOutcome
from queueport.testing.private_servers import Nats


class Tls(NamedTuple):
    """The host and port of a server with TLS, and the files of its clients."""

    host: str
    ca: Path
    client: Path


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    """A server that asks its clients for a certificate."""
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    server, client = authority.issue_cert("localhost", "127.0.0.1"), authority.issue_cert("client")
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    server.private_key_and_cert_chain_pem.write_to_path(str(folder / "server.pem"))
    client.private_key_and_cert_chain_pem.write_to_path(str(folder / "client.pem"))
    names = {"cert_file": "server.pem", "key_file": "server.pem", "ca_file": "ca.pem"}
    files = "\n".join(f'{name}: "{folder / file}"' for name, file in names.items())
    server_url = Nats(f"tls {{\n{files}\nverify: true\n}}\n").url
    return Tls(server_url.partition("://")[2], folder / "ca.pem", folder / "client.pem")


def test_messages_pass_over_tls(opener: Opener, tls: Tls) -> None:
    transport = opener(f"tls://{tls.host}?tls_ca={tls.ca}&tls_cert={tls.client}")
    assert transport.send("q", [message("a")])[0].outcome is SendOutcome.SENT
    assert ids(received(transport, 1)) == ["a"]


def test_a_certificate_of_an_unknown_authority_is_refused(opener: Opener, tls: Tls) -> None:
    with pytest.raises(BackendUnavailable, match=r"TLS with .* failed .*certificate verify failed.*check"):
        opener(f"tls://{tls.host}").check()


def test_a_missing_certificate_of_the_client_is_refused(opener: Opener, tls: Tls) -> None:
    with pytest.raises(BackendUnavailable, match=r"TLS with .* failed|cannot be used|the connection to .* was lost"):
        opener(f"tls://{tls.host}?tls_ca={tls.ca}").check()


class Key:
    """A key pair of an operator, an account or a user, which signs the tokens of others."""

    def __init__(self, prefix: int) -> None:
        self.seed: bytes = nkeys.encode_seed(os.urandom(32), prefix)
        self._pair = nkeys.from_seed(bytearray(self.seed))
        self.public: str = bytes(self._pair.public_key).decode()

    def token(self, of: Key, kind: str, expires: Mapping[str, int] = MappingProxyType({}), **claims: Any) -> str:
        """A JWT of NATS: https://docs.nats.io/running-a-nats-service/nats_admin/security/jwt"""
        body: dict[str, Any] = {"iat": int(time.time()), "iss": self.public, "sub": of.public, "name": kind, **expires}
        body["nats"] = {**claims, "type": kind, "version": 2}
        digest = hashlib.new("sha512_256", json.dumps(body).encode()).digest()
        body["jti"] = base64.b32encode(digest).decode().rstrip("=")
        text = f"{encoded({'typ': 'JWT', 'alg': 'ed25519-nkey'})}.{encoded(body)}"
        signature = base64.urlsafe_b64encode(self._pair.sign(text.encode())).decode().rstrip("=")
        return f"{text}.{signature}"


def encoded(part: Mapping[str, Any]) -> str:
    """A part of a JWT."""
    return base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")


UNLIMITED: dict[str, Any] = dict.fromkeys(("subs", "data", "payload"), -1)


@pytest.fixture(scope="module")
def credentials(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The URL of a server with an operator, and the credentials file of a user. `expired.creds` is beside the file."""
    operator, system = Key(nkeys.PREFIX_BYTE_OPERATOR), Key(nkeys.PREFIX_BYTE_ACCOUNT)
    account, user = Key(nkeys.PREFIX_BYTE_ACCOUNT), Key(nkeys.PREFIX_BYTE_USER)
    names = ("imports", "exports", "conn", "leaf", "mem_storage", "disk_storage", "streams", "consumer")
    limits = {**UNLIMITED, **dict.fromkeys(names, -1), "wildcards": True}
    quiet = {**limits, **dict.fromkeys(("mem_storage", "disk_storage", "streams", "consumer"), 0)}
    tokens = {
        account.public: operator.token(account, "account", limits=limits),
        system.public: operator.token(system, "account", limits=quiet),
    }
    preload = "\n".join(f"{public}: {token}" for public, token in tokens.items())
    server = Nats(
        f"operator: {operator.token(operator, 'operator', system_account=system.public)}\n"
        f"system_account: {system.public}\nresolver: MEMORY\nresolver_preload {{\n{preload}\n}}\n"
    )
    folder = tmp_path_factory.mktemp("creds")
    for name, expires in (("app", {}), ("expired", {"exp": int(time.time()) - 60})):
        (folder / f"{name}.creds").write_text(
            f"-----BEGIN NATS USER JWT-----\n{account.token(user, 'user', expires, pub={}, sub={}, **UNLIMITED)}\n"
            f"------END NATS USER JWT------\n\n-----BEGIN USER NKEY SEED-----\n{user.seed.decode()}\n"
            "------END USER NKEY SEED------\n"
        )
    return server.url, folder / "app.creds"


def test_a_credentials_file_is_used(opener: Opener, credentials: tuple[str, Path]) -> None:
    url, file = credentials
    transport = opener(f"{url}?creds={file}")
    assert transport.check() == []
    assert transport.send("q", [message("a")])[0].outcome is SendOutcome.SENT
    assert ids(received(transport, 1)) == ["a"]


def test_a_server_with_an_operator_refuses_a_client_without_credentials(
    opener: Opener, credentials: tuple[str, Path]
) -> None:
    with pytest.raises(BackendUnavailable, match="refuses the login"):
        opener(credentials[0]).check()


def test_a_damaged_credentials_file_is_named(opener: Opener, credentials: tuple[str, Path], tmp_path: Path) -> None:
    url, file = credentials
    damaged = tmp_path / "damaged.creds"
    damaged.write_text(file.read_text().replace("SU", "XX"))
    with pytest.raises(BackendUnavailable, match=r"damaged\.creds is not a credentials file"):
        opener(f"{url}?creds={damaged}").check()


@pytest.mark.parametrize("path", ["/nowhere/file", "/"])
def test_a_file_that_cannot_be_read_is_named(opener: Opener, tls: Tls, path: str) -> None:
    why = "No such file or directory" if path != "/" else "Is a directory"
    with pytest.raises(BackendUnavailable, match=rf"a file in creds=.* cannot be read \({why}: {path}\): correct"):
        opener(f"nats://{tls.host}?creds={path}").check()
    with pytest.raises(BackendUnavailable, match=rf"a file in creds=, tls_ca=.* cannot be read \({why}"):
        opener(f"tls://{tls.host}?tls_ca={path}").check()


def test_an_expired_login_is_reported_with_what_the_server_says(opener: Opener, credentials: tuple[str, Path]) -> None:
    url, file = credentials
    with pytest.raises(BackendUnavailable, match=r"refuses the login \(.+\): correct or renew"):
        opener(f"{url}?creds={file.with_name('expired.creds')}").check()
