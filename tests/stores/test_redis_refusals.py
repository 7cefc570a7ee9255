"""The errors and warnings of the Redis store about servers that it cannot or should not use."""

import re
import shutil
import socket
import subprocess
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis

from queueport.errors import BackendUnavailable, ConfigurationError
from queueport.spi.record import Change
from queueport.spi.store import Insert, Query
from queueport.status import JobState
from queueport.stores.redis.connection import Redis
from queueport.stores.redis.store import RedisStore
from queueport.testing.servers import free_port
from queueport.testing.stores.harness import bare, put, run
from tests.servers import redis_server
from tests.servers.health import LONG, no_descriptors
from tests.stores.test_redis_server import HANG, opened, refusal, started

PASSWORD = "s3cret-p4ss"


def test_a_refused_connection_is_reported() -> None:
    assert refusal("redis://127.0.0.1:1/0") == (
        "the Redis at redis://127.0.0.1:1/0 refuses connections: start it, or correct the URL"
    )


def test_an_unknown_host_is_reported() -> None:
    assert "has a host name that cannot be resolved" in refusal("redis://no-such-host.invalid/0")


def test_a_host_name_that_is_not_valid_is_reported() -> None:
    assert "has a host name that is not valid: correct it in the URL" in refusal(f"redis://{LONG}/0")


def test_a_path_that_is_too_long_for_a_socket_is_reported() -> None:
    assert "has a path that is too long for a socket" in refusal(f"unix:///{'a' * 200}")


def test_the_error_says_that_no_file_descriptor_is_left() -> None:
    url = redis_server().url
    with opened(url) as store:
        store.check()  # this call imports all modules
    with opened(url) as store, no_descriptors():
        for call in (store.check, lambda: put(store)):
            with pytest.raises(BackendUnavailable, match="this process has no file descriptors left"):
                call()


@pytest.mark.parametrize("forbidden", ["-hset", "-zadd", "-evalsha", "resetkeys ~other:*"])
def test_check_says_that_a_permission_is_missing_which_an_insert_needs(forbidden: str) -> None:
    with started() as server, redis.Redis(port=server.port) as client:
        client.execute_command("ACL", "SETUSER", "app", "on", f">{PASSWORD}", "allkeys", "allchannels", "+@all")
        with opened(f"redis://app:{PASSWORD}@127.0.0.1:{server.port}/0") as store:
            assert list(store.check()) == []
            assert client.keys() == []
            client.execute_command("ACL", "SETUSER", "app", *forbidden.split())
            for call in (store.check, lambda: put(store)):
                with pytest.raises(BackendUnavailable, match="denies this user permission"):
                    call()


def test_a_missing_database_is_reported() -> None:
    assert "has no database of that number" in refusal(redis_server().url.replace("/0", "/999"))


def test_a_missing_socket_is_reported() -> None:
    assert "has no socket at that path" in refusal("unix:///nowhere/redis.sock")


@pytest.mark.parametrize("option", ["ssl_ca_certs", "ssl_certfile"])
def test_a_missing_certificate_is_not_reported_as_a_missing_socket(tmp_path: Path, option: str) -> None:
    place = redis_server().url.replace("redis://", "rediss://")
    for path, why in ((tmp_path / "ca.pem", "No such file or directory"), (tmp_path, "Is a directory")):
        told = refusal(f"{place}?{option}={path}")
        assert f"needs a certificate or key that cannot be read ({why}): correct the path in the ssl_ option" in told
    (tmp_path / "ca.pem").write_text("nothing")
    assert re.search(
        r"cannot be reached over TLS \(.+\): check its port", refusal(f"{place}?{option}={tmp_path}/ca.pem")
    )


@pytest.mark.parametrize(
    ("says", "sentence"),
    [
        (
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            "does not speak the Redis protocol (Protocol Error: b'HTTP/1.1 400 Bad Request'): name the host and port",
        ),
        (b"AMQP\0\0\x09\x01", "closed the connection: check that a Redis is listening there"),
        (b"", "closed the connection: check that a Redis is listening there"),
        (
            b"-LOADING Redis is loading the dataset in memory\r\n",
            "is still loading its data (Redis is loading the dataset in memory): try",
        ),
        (
            b"-ERR max number of clients reached\r\n",
            "has no connection left (max number of clients reached): raise its maxclients",
        ),
    ],
    ids=["http", "amqp", "silent", "loading", "full"],
)
def test_a_server_that_is_not_a_redis_or_accepts_no_client_is_reported(says: bytes, sentence: str) -> None:
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


def test_a_server_without_tls_is_reported() -> None:
    error = refusal(redis_server().url.replace("redis://", "rediss://"), call_timeout=HANG)
    assert "did not answer within 0.5 s: check whether it uses TLS" in error


def test_tls_works_and_certificates_are_checked(tmp_path: Path) -> None:
    openssl, key, certificate = shutil.which("openssl"), tmp_path / "key.pem", tmp_path / "certificate.pem"
    if openssl is None:
        pytest.skip("openssl is not installed, so no certificate can be made")
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


def test_passwords_work_and_are_never_shown() -> None:
    with started("--requirepass", PASSWORD) as server:
        place = server.url.removeprefix("redis://")
        assert "requires a password (Authentication required): write it into the URL" in refusal(server.url)
        wrong = refusal(f"redis://:wrong-{PASSWORD}@{place}")
        assert "redis://:***@127.0.0.1" in wrong
        assert "does not accept this user and password (invalid username-password pair" in wrong
        assert PASSWORD not in wrong
        for url in (f"redis://:{PASSWORD}@{place}", f"redis://{place}?password={PASSWORD}"):
            with opened(url) as store:
                put(store)
                assert PASSWORD not in f"{store.redis.target!r}{store!r}{store.check()}"


def test_a_full_server_refuses_new_jobs_and_its_counts_stay_right() -> None:
    def fill(store: RedisStore) -> None:
        while True:
            put(store, payload=b"x" * 10_000)

    with started("--maxmemory", "3mb", "--maxmemory-policy", "noeviction") as server, opened(server.url) as store:
        with pytest.raises(BackendUnavailable, match=r"has no memory left \(.*maxmemory.*\): raise its maxmemory"):
            fill(store)
        counted = store.stats().queues["default"].states[JobState.QUEUED]
        with pytest.raises(BackendUnavailable, match="has no memory left"):
            store.check()
        assert counted == store.count(Query()) == len(store.find(Query(limit=1000))) > 0


def test_a_replica_is_refused_by_check_and_by_writes() -> None:
    with started() as primary, started("--replicaof", "127.0.0.1", str(primary.port)) as replica:
        store = RedisStore(replica.url)
        for call in (store.check, lambda: put(store)):
            with pytest.raises(BackendUnavailable, match="is a read-only replica: name the primary"):
                call()
        with pytest.raises(BackendUnavailable) as caught:
            store.insert([Insert(bare("a"), Change(), "r")])
        assert caught.value.rejected == ("a",)
        store.close()


def test_inserts_are_not_repeated_if_the_server_ran_some_of_them_before_it_became_a_replica(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exchange, calls = Redis._exchange, list[int]()

    def becomes_a_replica(self: Redis, connection: Any, commands: bytes, count: int, deadline: float) -> list[Any]:
        answers = exchange(self, connection, commands, count, deadline)
        if count == 1:
            return answers
        calls.append(count)
        return [*answers[:-1], redis.ReadOnlyError("READONLY You can't write against a read only replica.")]

    jobs = [Insert(bare(f"a{i}", payload=b"x" * 2**20), Change(), "r") for i in range(3)]
    with opened(redis_server().url) as store:
        put(store)  # this call loads the script
        monkeypatch.setattr(Redis, "_exchange", becomes_a_replica)
        with pytest.raises(BackendUnavailable, match="is a read-only replica") as caught:
            store.insert(jobs)
        monkeypatch.undo()
        assert len(calls) == 1
        assert caught.value.rejected == ()
        assert None not in store.get(["a0", "a1"])


def test_a_job_that_the_server_refuses_is_rejected_and_not_unknown() -> None:
    for option, sentence in (("--maxmemory", "has no memory left"), ("--requirepass", "requires a password")):
        with started(option, "1") as server, opened(server.url) as store:
            with pytest.raises(BackendUnavailable, match=sentence) as caught:
                store.insert([Insert(bare("a"), Change(), "r")])
            assert caught.value.rejected == ("a",)


def test_a_job_is_rejected_if_no_connection_is_ready_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it accepts connections, and answers no login
        store = RedisStore(f"redis://:secret@127.0.0.1:{silent.getsockname()[1]}/0", call_timeout=HANG)
        store._server_ahead = 0.0  # the store knows the server's clock from an earlier call
        with pytest.raises(BackendUnavailable) as caught:
            store.insert([Insert(bare("a"), Change(), "r")])
        store.close()
    assert caught.value.rejected == ("a",)


def test_a_job_that_was_sent_and_not_answered_is_not_rejected() -> None:
    with started() as server, opened(server.url, call_timeout=HANG) as store:
        put(store, "a")
        with server.paused(), pytest.raises(BackendUnavailable) as caught:
            store.insert([Insert(bare("b"), Change(), "r")])
        assert caught.value.rejected == ()


def test_a_primary_that_was_a_replica_for_a_time_is_used_again() -> None:
    with started() as other, started() as server, opened(server.url) as store, redis.Redis(port=server.port) as client:
        put(store, "a")
        client.replicaof("127.0.0.1", other.port)
        with pytest.raises(BackendUnavailable, match="name the primary"):
            put(store, "b")
        client.replicaof("NO", "ONE")
        put(store, "c")


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-random"])
def test_a_server_that_evicts_keys_is_refused(policy: str) -> None:
    sentence = rf"deletes jobs .*{policy}\): set noeviction"
    with (
        started("--maxmemory-policy", policy) as server,
        opened(server.url) as store,
        pytest.raises(ConfigurationError, match=sentence),
    ):
        store.check()


@pytest.mark.parametrize("policy", ["noeviction", "volatile-lru"])
def test_a_server_that_evicts_only_keys_with_a_time_to_live_is_accepted(policy: str) -> None:
    with started("--maxmemory-policy", policy) as server, opened(server.url) as store:
        put(store)
        assert list(store.check()) == []
        with redis.Redis(port=server.port) as client:
            assert {client.ttl(key) for key in client.scan_iter()} == {-1}


def test_check_warns_of_a_server_that_keeps_nothing_on_disk() -> None:
    with started("--appendonly", "no") as server, opened(server.url) as store:
        (warning,) = store.check()
        assert "keeps nothing on disk: a restart loses every job; set appendonly yes" in warning


def test_check_works_if_the_command_config_is_forbidden() -> None:
    with started("--rename-command", "CONFIG", "") as server, opened(server.url) as store:
        assert list(store.check()) == []


def test_check_warns_of_records_moved_aside() -> None:
    url = redis_server(private=True).url
    with opened(url) as store, redis.Redis.from_url(url) as client:
        record = run(store, put(store, "bad"))
        client.hset(f"{store.prefix.decode()}job:{record.id}", "options", "{")
        assert list(store.find(Query())) == []
        (warning,) = store.check()
        assert "1 jobs" in warning
        assert "could not be read" in warning
