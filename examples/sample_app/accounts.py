"""The application: signing up sends a welcome mail and later a reminder, and an order is charged once."""

from dataclasses import dataclass, field

from queueport import JobHandle, Retry, current_job, task

SOON = Retry(max_attempts=3, initial=0.1)


@dataclass
class Order:
    """What a customer has ordered. The order travels with the job."""

    number: int
    cents: int
    lines: list[str] = field(default_factory=list)


@task
def send_mail(address: str, template: str) -> str:
    """Send a mail, and return a receipt."""
    return f"{template} to {address}"


@task(retry=SOON)
def charge(order: Order, fails: int = 0) -> int:
    """Charge an order. The payment provider fails in the first `fails` attempts."""
    if current_job().attempt <= fails:
        raise ConnectionError(f"the provider did not answer for order {order.number}")
    return order.cents


def sign_up(address: str) -> tuple[JobHandle[str], JobHandle[str]]:
    """Sign up a user. Returns the jobs of the welcome mail and of the reminder."""
    return send_mail.enqueue(address, "welcome"), send_mail.using(delay=3600).enqueue(address, "reminder")


def check_out(order: Order, fails: int = 0) -> JobHandle[int]:
    """Charge an order; a second call for the same order, while the first is alive, adds no job."""
    return charge.using(key=f"order-{order.number}").enqueue(order, fails=fails)
