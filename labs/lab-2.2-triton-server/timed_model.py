"""A model that only takes time, and says from when to when: what it means to be busy, without a processor being busy."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # exists inside the server only


class TritonPythonModel:
    """`milliseconds` in; `began` and `ended` out, in nanoseconds of the machine's monotonic clock."""

    def execute(self, requests: list[Any]) -> list[Any]:
        """One after the other."""
        responses = []
        for request in requests:
            milliseconds = int(pb_utils.get_input_tensor_by_name(request, "milliseconds").as_numpy()[0, 0])
            began = time.monotonic_ns()
            time.sleep(milliseconds / 1000)
            times = {"began": began, "ended": time.monotonic_ns()}
            tensors = [pb_utils.Tensor(name, np.array([[value]], dtype=np.int64)) for name, value in times.items()]
            responses.append(pb_utils.InferenceResponse(tensors))
        return responses
