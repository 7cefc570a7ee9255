"""URLs of the Redis store: the parts of each, and those that are refused before any I/O."""

from typing import Any

import pytest

from queueport.errors import ConfigurationError
from queueport.spi.url import BackendURL
from queueport.stores.redis import Target
from queueport.stores.redis.store import RedisStore


def opened(url: str) -> Target:
    return RedisStore.open(BackendURL.parse(url), namespace="queueport", call_timeout=5.0).redis.target


@pytest.mark.parametrize(
    ("url", "hosts", "database"),
    [
        ("redis://", [("localhost", 6379)], 0),
        ("redis://db.internal", [("db.internal", 6379)], 0),
        ("redis://db.internal:6380/3", [("db.internal", 6380)], 3),
        ("redis://[::1]:6380/3", [("::1", 6380)], 3),
        ("redis://localhost?db=4", [("localhost", 6379)], 4),
        ("redis://localhost/4?db=4", [("localhost", 6379)], 4),
        ("redis+sentinel://a,b:26380/jobs/2", [("a", 26379), ("b", 26380)], 2),
        ("rediss+sentinel://a/jobs", [("a", 26379)], 0),
    ],
)
def test_a_url_names_hosts_and_a_database(url: str, hosts: list[tuple[str, int]], database: int) -> None:
    target = opened(url)
    assert (list(target.hosts), target.path, target.login["db"]) == (hosts, None, database)
    assert target.service == ("jobs" if "sentinel" in url else None)
    assert (target.tls is not None) == url.startswith("rediss")


def test_a_url_can_name_a_unix_socket() -> None:
    target = opened("unix://me:p%40ss@/run/redis%20jobs.sock?db=2")
    assert (target.path, target.hosts, target.login["db"]) == ("/run/redis jobs.sock", (), 2)
    assert (target.login["username"], target.login["password"]) == ("me", "p@ss")


@pytest.mark.parametrize(
    ("url", "username", "password"),
    [
        ("redis://:p%2Fw@host", None, "p/w"),
        ("redis://me:p@ss@host", "me", "p@ss"),
        ("redis://host?username=me&password=pw", "me", "pw"),
        ("redis+sentinel://me:pw@a,b/jobs?sentinel_password=other", "me", "pw"),
    ],
)
def test_user_and_password_are_read_and_not_shown(url: str, username: str | None, password: str) -> None:
    target = opened(url)
    assert (target.login["username"], target.login["password"]) == (username, password)
    assert password not in repr(target).replace("password", "")
    assert "other" not in repr(target)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", {"ssl_cert_reqs": "required", "ssl_check_hostname": True, "ssl_ca_certs": None}),
        ("?ssl_cert_reqs=none", {"ssl_cert_reqs": "none", "ssl_check_hostname": False, "ssl_ca_certs": None}),
        ("?ssl_ca_certs=/ca.pem&ssl_certfile=/me.pem", {"ssl_ca_certs": "/ca.pem", "ssl_certfile": "/me.pem"}),
    ],
)
def test_tls_checks_the_certificate_unless_an_option_forbids_it(options: str, expected: dict[str, Any]) -> None:
    tls = opened(f"rediss://host{options}").tls
    assert tls is not None
    assert expected.items() <= tls.items()


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("redis://a,b/0", r"names several hosts: name one; only redis\+sentinel:// has several"),
        ("redis://host:port/0", "does not name a valid host: write host and port, such as localhost:6379"),
        ("redis://host:99999/0", "does not name a valid host: write host and port, such as localhost:6379"),
        ("redis://host/jobs", "does not name a valid database: it is a number"),
        ("redis://host/1?db=2", "names two databases: leave out db=2"),
        ("redis://host?db=-1", "option db='-1' is wrong"),
        ("redis://host?databse=1", r"has no option 'databse'"),
        ("redis://host?clientname=x", r"did you mean 'client_name'\?"),
        ("redis://host?socket_timeout=3", r"has no option 'socket_timeout'"),
        ("redis+sentinel://a,b", "does not name a service of the sentinels"),
        ("redis://host?ssl_ca_certs=/ca.pem", "option 'ssl_ca_certs' is for rediss:// and has no effect here"),
        ("redis+sentinel://a/jobs?ssl_cert_reqs=none", "option 'ssl_cert_reqs' is for rediss://"),
        ("unix:///run/r.sock?sentinel_password=x", r"option 'sentinel_password' is for redis\+sentinel://"),
        (f"redis://host/{'1' * 5_000}", "does not name a valid database"),
        ("unix://?db=1", "does not name a socket"),
        ("unix://host/run/redis.sock", "does not name a socket"),
    ],
)
def test_the_error_about_a_wrong_url_says_what_to_write(url: str, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        opened(url)


def test_the_error_about_a_wrong_url_does_not_show_its_password() -> None:
    with pytest.raises(ConfigurationError) as raised:
        opened("redis://:s3cret@host/jobs?password=s3cret")
    assert "s3cret" not in str(raised.value)
