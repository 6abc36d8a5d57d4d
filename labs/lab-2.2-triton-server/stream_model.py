"""A decoupled model: one request, as many responses as there are tokens, each sent as soon as it is known.

It asks the model `tiny` for one token at a time, so the whole text is computed again for each: a real engine keeps keys and values
instead (lab 2.4). What is shown here is the transport.
"""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # exists inside the server only


class TritonPythonModel:
    """`input_ids`, `max_tokens` and `at_once` in; per response a `token` and when it was `made_at` (ns, monotonic clock)."""

    def initialize(self, args: dict[str, str]) -> None:
        """config.pbtxt says which tokens end a text."""
        parameters = json.loads(args["model_config"])["parameters"]
        self.ends = {int(token) for token in parameters["end_of_text"]["string_value"].split(",")}

    def execute(self, requests: list[Any]) -> None:
        """A decoupled model returns nothing: it answers through a sender, now or later."""
        for request in requests:
            sender, waiting = request.get_response_sender(), []
            at_once = bool(pb_utils.get_input_tensor_by_name(request, "at_once").as_numpy()[0, 0])
            for token in self.tokens(request):
                made = pb_utils.Tensor("made_at", np.array([[time.monotonic_ns()]], dtype=np.int64))
                response = pb_utils.InferenceResponse([pb_utils.Tensor("token", np.array([[token]], dtype=np.int64)), made])
                if at_once:  # the mistake that makes streaming useless: it looks like a stream, and comes at the end
                    waiting.append(response)
                else:
                    sender.send(response)
            for response in waiting:
                sender.send(response)
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)  # without it the client waits for ever

    def tokens(self, request: Any) -> Any:
        """New token ids, one by one, up to and with the end of text."""
        ids = pb_utils.get_input_tensor_by_name(request, "input_ids").as_numpy()  # (1, length)
        one = pb_utils.Tensor("max_tokens", np.array([[1]], dtype=np.int32))
        for _ in range(int(pb_utils.get_input_tensor_by_name(request, "max_tokens").as_numpy()[0, 0])):
            asked = pb_utils.InferenceRequest(
                model_name="tiny", inputs=[pb_utils.Tensor("input_ids", ids), one], requested_output_names=["output_ids"]
            )
            new = pb_utils.get_output_tensor_by_name(asked.exec(), "output_ids").as_numpy()  # (1, 1)
            yield int(new[0, 0])
            if int(new[0, 0]) in self.ends:
                return
            ids = np.concatenate([ids, new], axis=1)  # (1, length) -> (1, length + 1)
