import gc

import pytest


@pytest.fixture(autouse=True, scope="session")
def _imported_modules_are_no_garbage():
    """Trainer collects garbage at the start of every training, of which the imported modules would take a second."""
    gc.freeze()
    yield
    gc.unfreeze()
