"""Business logic scripting (BLS): a model that calls other models of the same server, and decides which.

A sum is computed; everything else goes through the language model. An ensemble cannot do that: it has no `if`.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # exists inside the server only

SUM = re.compile(r"\s*(\d+) \+ (\d+) →\s*")


def route(text: str) -> str:
    """`calculator` for a sum such as `27 + 15 →`, otherwise `language model`."""
    return "calculator" if SUM.fullmatch(text) else "language model"


class TritonPythonModel:
    """`text` and `max_tokens` in; `text` and the `route` that it took out."""

    def execute(self, requests: list[Any]) -> list[Any]:
        """One answer per request; an error of a model that was called becomes the error of the request."""
        responses = []
        for request in requests:
            try:
                responses.append(self.answer(request))
            except pb_utils.TritonModelException as error:
                responses.append(pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error))))
        return responses

    def answer(self, request: Any) -> Any:
        """Through one model, or through three."""
        text = pb_utils.get_input_tensor_by_name(request, "text")
        chosen = route(text.as_numpy()[0, 0].decode("utf-8"))
        if chosen == "calculator":
            first, second = SUM.fullmatch(text.as_numpy()[0, 0].decode("utf-8")).groups()
            answer = pb_utils.Tensor("text", np.array([[f" {int(first) + int(second)}".encode()]], dtype=object))
        else:
            ids = call("encode", [text], "input_ids")
            new = call("tiny", [ids, pb_utils.get_input_tensor_by_name(request, "max_tokens")], "output_ids")
            answer = call("decode", [new], "text")
        return pb_utils.InferenceResponse([answer, pb_utils.Tensor("route", np.array([[chosen.encode()]], dtype=object))])


def call(model: str, inputs: list[Any], output: str) -> Any:
    """One output of another model of this server; tensors stay in shared memory, nothing goes over the network.

    Raises:
        TritonModelException: that model answered with an error.
    """
    response = pb_utils.InferenceRequest(model_name=model, inputs=inputs, requested_output_names=[output]).exec()
    if response.has_error():
        raise pb_utils.TritonModelException(response.error().message())
    return pb_utils.get_output_tensor_by_name(response, output)
