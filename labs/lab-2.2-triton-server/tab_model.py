"""A model with memory: the tab of each table of a restaurant, one sequence of requests per table."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # exists inside the server only


def add_to_tab(tabs: dict[int, float], table: int, amount: float, *, start: bool, end: bool) -> float:
    """The total of `table` after `amount`.

    Args:
        tabs: table -> total so far; changed in place.
        start: the first request of a sequence: whatever was there before belongs to other guests.
        end: the last one: nothing may stay behind, or memory grows with every guest who ever came.
    """
    # SOLUTION 7
    total = (0.0 if start else tabs[table]) + amount
    tabs[table] = total
    if end:
        del tabs[table]
    return total
    # END SOLUTION


class TritonPythonModel:
    """`amount` in, `total` out. START, END and CORRID are filled in by the server's sequence batcher."""

    def initialize(self, args: dict[str, str]) -> None:
        """Without a sequence batcher there is no telling whose request it is: then all tables share one tab."""
        self.has_sequences = "sequence_batching" in json.loads(args["model_config"])
        self.tabs: dict[int, float] = {}
        self.one_tab_for_all = 0.0

    def execute(self, requests: list[Any]) -> list[Any]:
        """One total per request."""
        return [pb_utils.InferenceResponse([pb_utils.Tensor("total", self.total(request))]) for request in requests]

    def total(self, request: Any) -> np.ndarray:
        """(1, 1), float32."""

        def read(name: str) -> Any:
            return pb_utils.get_input_tensor_by_name(request, name).as_numpy().ravel()[0]

        amount = float(read("amount"))
        if self.has_sequences:
            total = add_to_tab(self.tabs, int(read("CORRID")), amount, start=bool(read("START")), end=bool(read("END")))
        else:
            total = self.one_tab_for_all = self.one_tab_for_all + amount
        return np.array([[total]], dtype=np.float32)
