"""A language model in Triton's Python backend: every batch that the server forms is one call of `generate`."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
import triton_python_backend_utils as pb_utils  # exists inside the server only
from transformers import AutoModelForCausalLM, AutoTokenizer

DEFAULT_TOKENS = 16
MOST_TOKENS = 256


class TritonPythonModel:
    """Greedy continuation of text prompts."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the checkpoint that `ONEPIECE_TRITON_CHECKPOINT` names, onto the device that config.pbtxt says."""
        checkpoint = os.environ["ONEPIECE_TRITON_CHECKPOINT"]
        on_gpu = args["model_instance_kind"] == "GPU"
        self.device = torch.device("cuda", int(args["model_instance_device_id"])) if on_gpu else torch.device("cpu")
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        # Padding is on the left, so that every prompt ends where generation begins.
        self.tokenizer = AutoTokenizer.from_pretrained(checkpoint, padding_side="left")
        self.model = AutoModelForCausalLM.from_pretrained(checkpoint).to(self.device).eval()

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer all requests of a batch; one that is wrong gets an error, and the others their answers."""
        read: list[tuple[list[str], int] | str] = [self._read(request) for request in requests]
        prompts = [prompt for entry in read if not isinstance(entry, str) for prompt in entry[0]]
        most = max((entry[1] for entry in read if not isinstance(entry, str)), default=0)
        rows = self._generate(prompts, most) if prompts else []
        responses, at = [], 0
        for entry in read:
            if isinstance(entry, str):
                responses.append(pb_utils.InferenceResponse(error=pb_utils.TritonError(entry, pb_utils.TritonError.INVALID_ARG)))
                continue
            own, at = rows[at : at + len(entry[0])], at + len(entry[0])
            responses.append(self._response(own, entry[1]))
        return responses

    def _read(self, request: Any) -> tuple[list[str], int] | str:
        """The prompts and the number of tokens of a request, or what is wrong with it."""
        try:
            prompts = [item.decode("utf-8") for item in pb_utils.get_input_tensor_by_name(request, "prompt").as_numpy().ravel()]
        except UnicodeDecodeError:
            return "prompt is not UTF-8"
        if not all(prompts):
            return "prompt is empty"
        asked = pb_utils.get_input_tensor_by_name(request, "max_tokens")
        tokens = DEFAULT_TOKENS if asked is None else int(asked.as_numpy().max())
        if not 1 <= tokens <= MOST_TOKENS:
            return f"max_tokens is {tokens}, not between 1 and {MOST_TOKENS}"
        room = self.model.config.max_position_embeddings - tokens
        longest = max(len(row) for row in self.tokenizer(prompts)["input_ids"])
        return (prompts, tokens) if longest <= room else f"prompt has {longest} tokens; {room} fit beside max_tokens"

    def _generate(self, prompts: list[str], most: int) -> list[list[int]]:
        """Token ids of the continuations, each up to and without its end of text."""
        batch = self.tokenizer(prompts, return_tensors="pt", padding=True, return_token_type_ids=False).to(self.device)
        with torch.inference_mode():
            generated = self.model.generate(**batch, max_new_tokens=most, do_sample=False)
        new = generated[:, batch["input_ids"].shape[1] :].tolist()  # (batch, prompt + new) -> (batch, new)
        end = self.tokenizer.eos_token_id
        return [row[: row.index(end)] if end in row else row for row in new]

    def _response(self, rows: list[list[int]], tokens: int) -> Any:
        """One request's answer: it may have asked for fewer tokens than its neighbours in the batch."""
        rows = [row[:tokens] for row in rows]
        texts = np.array([[self.tokenizer.decode(row, skip_special_tokens=True).encode("utf-8")] for row in rows], dtype=object)
        counts = np.array([[len(row)] for row in rows], dtype=np.int32)
        return pb_utils.InferenceResponse([pb_utils.Tensor("text", texts), pb_utils.Tensor("tokens", counts)])
