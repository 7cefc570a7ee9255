"""What the Redis store says of servers that it cannot use, or should not."""

import shutil
import socket
import subprocess
import threading
from contextlib import closing
from pathlib import Path

import pytest
import redis

from queueport.errors import BackendUnavailable, ConfigurationError
from queueport.status import JobState
from queueport.store import Query
from queueport.stores.redis import RedisStore
from queueport.testing.stores.harness import put, run
from tests.servers import redis_server
from tests.servers.server import free_port
from tests.stores.test_redis_server import HANG, opened, refusal, started

PASSWORD = "s3cret-p4ss"


def test_nobody_listening_is_told() -> None:
    assert refusal("redis://127.0.0.1:1/0") == (
        "the Redis at redis://127.0.0.1:1/0 refuses connections: start it, or name another"
    )


def test_an_unknown_host_is_told() -> None:
    assert "has a host name that cannot be resolved" in refusal("redis://no-such-host.invalid/0")


def test_a_missing_database_is_told() -> None:
    assert "has no database of that number" in refusal(redis_server().url.replace("/0", "/999"))


def test_a_missing_socket_is_told() -> None:
    assert "has no socket at that path" in refusal("unix:///nowhere/redis.sock")


@pytest.mark.parametrize(
    ("says", "sentence"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak as a Redis does: name the host and port of a Redis"),
        (b"AMQP\0\0\x09\x01", "closed the connection: is a Redis listening there?"),
        (b"", "closed the connection: is a Redis listening there?"),
        (b"-LOADING Redis is loading the dataset in memory\r\n", "is still loading its data"),
        (b"-ERR max number of clients reached\r\n", "has no connection left: raise its maxclients"),
    ],
    ids=["http", "amqp", "silent", "loading", "full"],
)
def test_a_server_that_is_no_redis_or_takes_nobody_is_told(says: bytes, sentence: str) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:

        def answer() -> None:
            while True:
                try:
                    visitor, _ = server.accept()
                except OSError:
                    return
                visitor.recv(100)
                visitor.sendall(says)
                visitor.close()

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            assert sentence in refusal(f"redis://127.0.0.1:{server.getsockname()[1]}/0", call_timeout=2.0)
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_a_server_without_tls_is_told() -> None:
    said = refusal(redis_server().url.replace("redis://", "rediss://"), call_timeout=HANG)
    assert "did not answer within 0.5 s: look whether it speaks TLS" in said


def test_tls_is_a_way_in_and_certificates_are_checked(tmp_path: Path) -> None:
    openssl, key, certificate = shutil.which("openssl"), tmp_path / "key.pem", tmp_path / "certificate.pem"
    if openssl is None:
        pytest.skip("no openssl to make a certificate with")
    made = ["-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(certificate), "-subj", "/CN=localhost"]
    name = ["-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([openssl, "req", "-x509", *made, *name], check=True, capture_output=True)
    port = str(free_port())
    files = ("--tls-cert-file", str(certificate), "--tls-key-file", str(key))
    with started("--tls-port", port, "--tls-auth-clients", "no", *files):
        with opened(f"rediss://localhost:{port}/0?ssl_ca_certs={certificate}") as store:
            record = put(store, "a")
            assert store.get(["a"]) == [record]
            assert list(store.wait(["a"], 0.01)) == []
        assert "cannot be reached over TLS" in refusal(f"rediss://localhost:{port}/0")
        assert "closed the connection" in refusal(f"redis://localhost:{port}/0")


def test_passwords_work_and_are_shown_nowhere() -> None:
    with started("--requirepass", PASSWORD) as server:
        place = server.url.removeprefix("redis://")
        assert "wants a password: write it into the URL" in refusal(server.url)
        wrong = refusal(f"redis://:wrong-{PASSWORD}@{place}")
        assert "redis://:***@127.0.0.1" in wrong
        assert "does not accept this user and password" in wrong
        assert PASSWORD not in wrong
        for url in (f"redis://:{PASSWORD}@{place}", f"redis://{place}?password={PASSWORD}"):
            with opened(url) as store:
                put(store)
                assert PASSWORD not in f"{store.redis.target!r}{store!r}{store.check()}"


def test_a_full_server_refuses_new_jobs_says_so_and_counts_right() -> None:
    def fill(store: RedisStore) -> None:
        while True:
            put(store, payload=b"x" * 10_000)

    with started("--maxmemory", "3mb", "--maxmemory-policy", "noeviction") as server, opened(server.url) as store:
        with pytest.raises(BackendUnavailable, match="has no memory left: raise its maxmemory"):
            fill(store)
        counted = store.stats().queues["default"].states[JobState.QUEUED]
        assert counted == store.count(Query()) == len(store.find(Query(limit=1000))) > 0


def test_a_replica_is_refused_by_check_and_by_writes() -> None:
    with started() as primary, started("--replicaof", "127.0.0.1", str(primary.port)) as replica:
        store = RedisStore(replica.url)
        for call in (store.check, lambda: put(store)):
            with pytest.raises(BackendUnavailable, match="is a read-only replica: name the primary"):
                call()
        store.close()


def test_a_primary_that_was_demoted_and_came_back_is_used_again() -> None:
    with started() as other, started() as server, opened(server.url) as store, redis.Redis(port=server.port) as client:
        put(store, "a")
        client.replicaof("127.0.0.1", other.port)
        with pytest.raises(BackendUnavailable, match="name the primary"):
            put(store, "b")
        client.replicaof("NO", "ONE")
        put(store, "c")


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-random"])
def test_a_server_that_drops_keys_is_refused(policy: str) -> None:
    sentence = rf"drops jobs .*{policy}\): set noeviction"
    with (
        started("--maxmemory-policy", policy) as server,
        opened(server.url) as store,
        pytest.raises(ConfigurationError, match=sentence),
    ):
        store.check()


@pytest.mark.parametrize("policy", ["noeviction", "volatile-lru"])
def test_a_server_that_keeps_keys_without_a_time_to_live_is_taken(policy: str) -> None:
    with started("--maxmemory-policy", policy) as server, opened(server.url) as store:
        put(store)
        assert list(store.check()) == []
        with redis.Redis(port=server.port) as client:
            assert {client.ttl(key) for key in client.scan_iter()} == {-1}


def test_a_server_that_keeps_nothing_on_disk_is_worth_a_warning() -> None:
    with started("--appendonly", "no") as server, opened(server.url) as store:
        (warning,) = store.check()
        assert "keeps nothing on disk: a restart loses every job; set appendonly yes" in warning


def test_check_works_where_config_is_forbidden() -> None:
    with started("--rename-command", "CONFIG", "") as server, opened(server.url) as store:
        assert list(store.check()) == []


def test_jobs_put_aside_are_worth_a_warning() -> None:
    url = redis_server(private=True).url
    with opened(url) as store, redis.Redis.from_url(url) as client:
        record = run(store, put(store, "bad"))
        client.hset(f"{store.prefix.decode()}job:{record.id}", "options", "{")
        assert list(store.find(Query())) == []
        (warning,) = store.check()
        assert "1 jobs" in warning
        assert "could not be read" in warning
