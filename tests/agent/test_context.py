"""What the tasks of one region work with."""

import structlog

from snaphold.agent.context import TaskContext
from snaphold.config import Settings
from snaphold.engines.base import Engines
from snaphold.host.servers import Servers
from snaphold.store.local import LocalStores


def test_what_is_done_at_low_priority_logs_whose_it_is(host_settings: Settings, servers: Servers) -> None:
    """The thread that gives way says the same of its log lines as the one that waits for it."""
    assert host_settings.state_dir is not None
    context = TaskContext(
        servers=servers, engines=Engines([]), stores=LocalStores(host_settings.state_dir), settings=host_settings
    )
    with structlog.contextvars.bound_contextvars(task="7"):
        assert context.low_priority(structlog.contextvars.get_contextvars) == {"task": "7"}
