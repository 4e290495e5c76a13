"Data of the latent tests."

import pytest

from ddnb.data import load


@pytest.fixture(scope="module")
def digits():
    return load("digits")
