"""torch's OpInfo, without its search for the test that asks for samples: 50 ms for each operator, in the sources of all modules."""

from torch.testing._internal import common_utils

common_utils.extract_test_fn = lambda: None

from torch.testing._internal.common_methods_invocations import op_db  # noqa: E402

__all__ = ["op_db"]
