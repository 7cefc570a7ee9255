"""What the page on testing assumes: the app `shop`."""

import pytest

from queueport.errors import PayloadTooLarge
from shop.tasks import resize, send_welcome
from shop.views import Order, check_out, sign_up, upload

__all__ = ["Order", "PayloadTooLarge", "check_out", "picture", "pytest", "resize", "send_welcome", "sign_up", "upload"]

picture = bytes(1024 * 1024)
