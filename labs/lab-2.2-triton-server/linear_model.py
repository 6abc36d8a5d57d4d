"""A model of Triton's Python backend, with NumPy alone: scores = features W. W lies beside this file, one per version."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # exists inside the server only


class TritonPythonModel:
    """What the server looks for in `model.py`. One object per instance, each in a process of its own."""

    def initialize(self, args: dict[str, str]) -> None:
        """Called once, before the model is ready. `args` also has `model_config`, as JSON."""
        self.weights = np.load(Path(args["model_repository"]) / args["model_version"] / "weights.npy")  # (features, scores)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Called for each batch that the server forms: one response per request, in their order."""
        responses = []
        for request in requests:
            features = pb_utils.get_input_tensor_by_name(request, "features").as_numpy()  # (batch, features)
            scores = features @ self.weights  # (batch, features) -> (batch, scores)
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("scores", scores.astype(np.float32))]))
        return responses
