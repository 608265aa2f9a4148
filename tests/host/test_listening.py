"""The sockets that a server inherits."""

import os
import random
import stat
from pathlib import Path

import pytest

from snaphold.disk import Owner
from snaphold.host.listening import listening


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_only_the_socket_is_given_to_the_server(tmp_path: Path) -> None:
    """A link in the socket's place is replaced, and the file that it pointed to is not given away."""
    ours, path = tmp_path / "ours", tmp_path / "run" / "s"
    path.parent.mkdir()
    ours.touch()
    path.symlink_to(ours)
    port = random.SystemRandom().randint(20_000, 30_000)
    with listening("127.91.7.3", port, path, Owner(uid=310_001, gid=310_001)):
        facts = path.lstat()
        assert stat.S_ISSOCK(facts.st_mode)
        assert (facts.st_uid, facts.st_gid) == (310_001, 310_001)
    assert (ours.lstat().st_uid, ours.lstat().st_gid) == (0, 0)
