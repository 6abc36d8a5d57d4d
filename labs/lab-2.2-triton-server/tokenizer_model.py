"""Text to token ids, or token ids to text: the two ends of a pipeline, without PyTorch."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # exists inside the server only
from tokenizers import Tokenizer


class TritonPythonModel:
    """The parameter `direction` says which end: `encode` or `decode`."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the tokenizer that config.pbtxt names."""
        parameters = json.loads(args["model_config"])["parameters"]
        self.direction = parameters["direction"]["string_value"]
        self.tokenizer = Tokenizer.from_file(parameters["tokenizer"]["string_value"])

    def execute(self, requests: list[Any]) -> list[Any]:
        """One text per request: prompts differ in length, so they are no batch yet."""
        return [self.encode(request) if self.direction == "encode" else self.decode(request) for request in requests]

    def encode(self, request: Any) -> Any:
        """`text` (1, 1) to `input_ids` (1, length), special tokens included."""
        text = pb_utils.get_input_tensor_by_name(request, "text").as_numpy()[0, 0].decode("utf-8")
        ids = np.array([self.tokenizer.encode(text).ids], dtype=np.int64)
        return pb_utils.InferenceResponse([pb_utils.Tensor("input_ids", ids)])

    def decode(self, request: Any) -> Any:
        """`output_ids` (1, length) to `text` (1, 1), special tokens left out."""
        ids = pb_utils.get_input_tensor_by_name(request, "output_ids").as_numpy()[0].tolist()
        text = np.array([[self.tokenizer.decode(ids, skip_special_tokens=True).encode("utf-8")]], dtype=object)
        return pb_utils.InferenceResponse([pb_utils.Tensor("text", text)])
