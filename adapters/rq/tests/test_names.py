"""RQ's names of queues and messages keep jobs, lives and namespaces apart."""

from __future__ import annotations

import pytest

from queueport.errors import ConfigurationError
from queueport_rq.names import Names, is_copy, job_id

NAMES = Names("shop_1")


@pytest.mark.parametrize("own", ["order42", "a-b_c", "dead_1-x", "0a1b2c3d-x", "_", "-"])
def test_every_id_is_found_again_in_its_messages_and_copies(own: str) -> None:
    message, copy = NAMES.message(own), NAMES.copy(own, 12)
    assert (job_id(message), is_copy(message)) == (own, False)
    assert (job_id(copy), is_copy(copy)) == (own, True)


def test_each_message_has_an_id_of_its_own() -> None:
    assert len({NAMES.message("same") for _ in range(100)}) == 100


@pytest.mark.parametrize("foreign", ["", "3f1c", "6f1d1bd2-7a3c-4a55-9d4e-3f8c8f1d9a01", "shop_1-order42"])
def test_ids_of_others_are_none_of_ours(foreign: str) -> None:
    assert (job_id(foreign), is_copy(foreign)) == (None, False)


def test_a_queue_is_known_by_its_namespace() -> None:
    assert NAMES.own_queue(NAMES.queue("with.dots")) == "with.dots"
    for foreign in ("default", "shop.default", "shop_1.", "shop_12.default"):
        with pytest.raises(ConfigurationError, match="no queue of namespace 'shop_1'"):
            NAMES.own_queue(foreign)
