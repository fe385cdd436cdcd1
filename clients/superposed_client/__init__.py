"""The Python client of a superposed service, without torch and without server code: see `Client` and `Task`."""

from superposed_client import _errors, models
from superposed_client._client import AsyncClient, Client
from superposed_client._contexts import Context, mixture, power, task
from superposed_client._core import RetryPolicy
from superposed_client._errors import *  # noqa: F403 - the error tree
from superposed_client._operations import AsyncKeys, Keys
from superposed_client._task import AsyncTask, Task
from superposed_client.models import *  # noqa: F403 - the answers

__all__ = ["AsyncClient", "AsyncKeys", "AsyncTask", "Client", "Context", "Keys", "RetryPolicy", "Task"]
__all__ += ["mixture", "power", "task"]
__all__ += _errors.__all__
__all__ += models.__all__
