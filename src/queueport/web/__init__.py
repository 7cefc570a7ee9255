"""HTTP endpoints for operators and users: health, metrics, and the status of jobs. `pip install 'queueport[web]'`.

`Endpoints` makes the answers without a framework. `queueport.web.asgi` sends them from Starlette or as an app of their
own, `queueport.contrib.fastapi`, `queueport.contrib.flask` and `queueport.contrib.django` from these frameworks.
"""

from queueport.engine.thresholds import Thresholds
from queueport.web.endpoints import ENDPOINTS, Answer, Endpoint, Endpoints
from queueport.web.events import Events

__all__ = ["ENDPOINTS", "Answer", "Endpoint", "Endpoints", "Events", "Thresholds"]
