import logging

import pytest

pytest.register_assert_rewrite("segmentation_model_tests")


@pytest.fixture
def transformers_log(caplog):
    """`caplog` with what transformers logs, whether or not its logger passes that on to the root."""
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)
