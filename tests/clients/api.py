"""Calls a client's Python API for the tests.

To be run by the client's own Python: ``api.py CLIENT FACTS``, a function of this file and its arguments in JSON. Each
line of standard input is a call ``[path, arguments, keywords]`` in JSON: ``["backups.get", ["<id>"], {}]``. Its answer
is a line of JSON: ``{"result"}``, where a list tells its next page's marker too, or ``{"error"}`` with the exception's
class, code, text and ``retry_after``.
"""

import collections
import collections.abc
import importlib
import inspect
import json
import operator
import os
import sys
from collections.abc import Callable
from typing import Any


def troveclient(address: str, account: str, password: str) -> Any:
    """``troveclient.v1.client.Client`` with a session of Keystone's v3."""
    auth = importlib.import_module("keystoneauth1.identity.v3").Password(
        auth_url=f"{address}/v3",
        username="demo",
        password=password,
        project_name=account,
        user_domain_id="default",
        project_domain_id="default",
    )
    session = importlib.import_module("keystoneauth1.session").Session(auth=auth)
    return importlib.import_module("troveclient.v1.client").Client(session=session)


def pyrax(address: str, user: str, api_key: str, region: str) -> Any:
    """``pyrax.cloud_databases``, logged in by an API key.

    It is older than Python 3.10; what that took away is put back first.
    """
    for name in ("Callable", "Iterable", "Mapping", "MutableMapping", "MutableSequence", "Sequence"):
        setattr(collections, name, getattr(collections.abc, name))
    inspect.getargspec = inspect.getfullargspec  # type: ignore[attr-defined]
    module = importlib.import_module("pyrax")
    module.set_setting("identity_type", "rackspace")
    module.set_setting("auth_endpoint", f"{address}/v2.0/")
    module.set_credentials(user, api_key, region=region)
    return module.cloud_databases


def shown(value: Any) -> Any:
    """As JSON has it."""
    if isinstance(value, list):
        return {"rows": [shown(row) for row in value], "next": getattr(value, "next", None)}
    return getattr(value, "_info", value)


def answer(client: Any, path: str, arguments: list[Any], keywords: dict[str, Any]) -> dict[str, Any]:
    """What a call gives, or raises."""
    try:
        return {"result": shown(operator.attrgetter(path)(client)(*arguments, **keywords))}
    except Exception as error:  # noqa: BLE001 - whatever the client raises is what the test wants to know
        code = getattr(error, "http_status", None) or getattr(error, "code", None)
        told = {"class": type(error).__name__, "code": code, "text": str(error)}
        return {"error": {**told, "retry_after": getattr(error, "retry_after", None)}}


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a client prints of its own is no answer
    makers: dict[str, Callable[..., Any]] = {"troveclient": troveclient, "pyrax": pyrax}
    client = makers[sys.argv[1]](**json.loads(sys.argv[2]))
    for line in sys.stdin:
        path, arguments, keywords = json.loads(line)
        answers.write(json.dumps(answer(client, path, arguments, keywords)) + "\n")
        answers.flush()
