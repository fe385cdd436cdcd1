from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from demo.server_process import Server
from superposed_service.followers.follower import seed
from superposed_service.settings import Settings
from superposed_service.storage import DataDirectory
from tests.conftest import GIVEN_URL, given_server, make_directory


@pytest.fixture(scope="session", params=["alone", "follower"] if GIVEN_URL is None else ["given"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server; and a follower, whose leader takes the changes. Or what is at the given URL."""
    folder = tmp_path_factory.mktemp(request.param)
    if GIVEN_URL is not None:
        with given_server(folder) as given:
            yield given
        return
    with ExitStack() as stack:
        leader = stack.enter_context(Server(make_directory(folder / "store")))
        if request.param == "alone":
            yield leader
            return
        with DataDirectory(folder / "follower") as directory:
            seed(directory, Settings(follow=leader.url))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SUPERPOSED_FOLLOW", leader.url)
            follower = stack.enter_context(Server(folder / "follower"))
        yield follower
