"""One process for all tests of this folder that starts runs."""

import pytest

from reliability.kills import Zygote


@pytest.fixture(scope="session")
def zygote():
    with Zygote() as process:
        yield process
