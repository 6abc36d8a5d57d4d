"""A language model in Triton's Python backend: every batch that the server forms is one call of `generate`."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
import triton_python_backend_utils as pb_utils  # exists inside the server only
from transformers import AutoModelForCausalLM

# A model may bring generation settings of its own, many instruct models a repetition penalty.
GREEDY = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0, "temperature": 1.0, "top_k": 50, "top_p": 1.0}


def join_requests(arrays: list[np.ndarray]) -> np.ndarray:
    """Prompts of several requests, (rows of request i, length) each, as one batch (rows of all requests, length).

    The server puts only requests of one length together, because `config.pbtxt` does not allow ragged batches.
    """
    # SOLUTION 3
    return np.concatenate(arrays, axis=0)  # [(rows_i, length)] -> (rows, length)
    # END SOLUTION


def split_rows(rows: np.ndarray, counts: list[int]) -> list[np.ndarray]:
    """The reverse: (rows of all requests, ...) to one array per request, which has `counts[i]` rows."""
    # SOLUTION 3
    ends = np.cumsum(counts)
    return [rows[end - count : end] for count, end in zip(counts, ends, strict=True)]
    # END SOLUTION


class TritonPythonModel:
    """Token ids in; greedy continuation and the logits of the first new token out."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the checkpoint that config.pbtxt names, onto the device that its instance_group says."""
        parameters = json.loads(args["model_config"])["parameters"]
        on_gpu = args["model_instance_kind"] == "GPU"
        self.device = torch.device("cuda", int(args["model_instance_device_id"])) if on_gpu else torch.device("cpu")
        torch.set_num_threads(1)  # instances and clients share the cores
        self.model = AutoModelForCausalLM.from_pretrained(parameters["checkpoint"]["string_value"], dtype=torch.float32)
        self.model = self.model.to(self.device).eval()
        self.ends = self.model.generation_config.eos_token_id  # a number, or several

    def execute(self, requests: list[Any]) -> list[Any]:
        """One call of the model for all requests that waited together."""
        prompts = [pb_utils.get_input_tensor_by_name(request, "input_ids").as_numpy() for request in requests]
        limits = [int(pb_utils.get_input_tensor_by_name(request, "max_tokens").as_numpy().max()) for request in requests]
        tokens, logits = self.generate(join_requests(prompts), max(limits))
        counts = [len(prompt) for prompt in prompts]
        answers = zip(split_rows(tokens, counts), split_rows(logits, counts), limits, strict=True)
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("output_ids", self.own(rows, limit)), pb_utils.Tensor("logits", scores)])
            for rows, scores, limit in answers
        ]

    def own(self, rows: np.ndarray, limit: int) -> np.ndarray:
        """A request's rows as if it had been alone: neighbours may have asked for more tokens, or needed more to come to an end."""
        ended = np.isin(rows, self.ends)  # (rows, new)
        needed = np.where(ended.any(axis=1), ended.argmax(axis=1) + 1, rows.shape[1])  # (rows, new) -> (rows,)
        return np.ascontiguousarray(rows[:, : min(limit, int(needed.max()))])

    def generate(self, input_ids: np.ndarray, max_tokens: int) -> tuple[np.ndarray, np.ndarray]:
        """(rows, length) to new tokens (rows, at most max_tokens), padded after the end of text, and logits (rows, vocabulary)."""
        inputs = torch.from_numpy(input_ids).to(self.device)
        with torch.inference_mode():
            made = self.model.generate(
                inputs, attention_mask=torch.ones_like(inputs), **GREEDY, max_new_tokens=max_tokens,
                return_dict_in_generate=True, output_logits=True, pad_token_id=self.model.generation_config.pad_token_id or 0,
            )  # fmt: skip
        new = made.sequences[:, input_ids.shape[1] :]  # (rows, length + new) -> (rows, new)
        return new.cpu().numpy(), made.logits[0].float().cpu().numpy()
