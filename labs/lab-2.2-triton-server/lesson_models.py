"""The models that the notebooks put into the repository: their configurations, in one place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from model_repository import Model, Tensor
from onepiece.models import model_directory

FEATURES, SCORES = 4, 2
INPUT_IDS = Tensor("input_ids", "INT64", (-1,))
OUTPUT_IDS = Tensor("output_ids", "INT64", (-1,))
MAX_TOKENS = Tensor("max_tokens", "INT32", (1,))
TEXT = Tensor("text", "BYTES", (1,))

BATCHING = "dynamic_batching { max_queue_delay_microseconds: 2000 }"
CACHED = "response_cache { enable: true }"
DECOUPLED = "model_transaction_policy { decoupled: true }"
SEQUENCES = """
sequence_batching {
  max_sequence_idle_microseconds: 60000000
  control_input [
    { name: "START" control [ { kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] } ] },
    { name: "END" control [ { kind: CONTROL_SEQUENCE_END int32_false_true: [ 0, 1 ] } ] },
    { name: "CORRID" control [ { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 } ] }
  ]
  oldest { max_candidate_sequences: 16 }
}
"""
LIMITED = 'rate_limiter { resources [ { name: "slots" count: 1 } ] }'
"""Each execution needs one of the server's `slots`, whichever model and instance it belongs to."""


def checkpoint_directory(settings: Any) -> Path:
    """Where the weights and the tokenizer of the profile's language model lie."""
    return model_directory(settings.model or settings.base_model, settings.base_revision)


def linear(name: str = "linear", *, more: str = "") -> Model:
    """Four features in, two scores out; the weights are a file of each version."""
    features, scores = Tensor("features", "FP32", (FEATURES,)), Tensor("scores", "FP32", (SCORES,))
    return Model(name, (features,), (scores,), max_batch_size=8, more=more)


def language_model(name: str, checkpoint: Path, *, kind: str = "KIND_CPU", more: str = "") -> Model:
    """Token ids in; a greedy continuation and the logits of its first token out."""
    outputs = (OUTPUT_IDS, Tensor("logits", "FP32", (-1,)))
    parameters = {"checkpoint": str(checkpoint)}
    return Model(name, (INPUT_IDS, MAX_TOKENS), outputs, max_batch_size=8, kind=kind, parameters=parameters, more=more)


def tokenizer(direction: str, checkpoint: Path) -> Model:
    """`encode`: text to token ids. `decode`: token ids to text."""
    ends = (TEXT, INPUT_IDS) if direction == "encode" else (OUTPUT_IDS, TEXT)
    parameters = {"direction": direction, "tokenizer": str(checkpoint / "tokenizer.json")}
    return Model(direction, ends[:1], ends[1:], max_batch_size=1, parameters=parameters)


def answer() -> Model:
    """Business logic scripting: text in, text out, and the way it took."""
    return Model("answer", (TEXT, MAX_TOKENS), (TEXT, Tensor("route", "BYTES", (1,))), max_batch_size=1)


def stream(checkpoint: Path) -> Model:
    """Decoupled: one response per token, until one that ends the text."""
    ends = json.loads((checkpoint / "generation_config.json").read_text(encoding="utf-8"))["eos_token_id"]
    parameters = {"end_of_text": ",".join(map(str, ends if isinstance(ends, list) else [ends]))}
    inputs = (INPUT_IDS, MAX_TOKENS, Tensor("at_once", "BOOL", (1,)))
    outputs = (Tensor("token", "INT64", (1,)), Tensor("made_at", "INT64", (1,)))
    return Model("stream", inputs, outputs, max_batch_size=1, parameters=parameters, more=DECOUPLED)


def timed(name: str, *, instances: int, limit: str = "") -> Model:
    """Takes the time that a request asks for; several instances, with or without a rate limit."""
    outputs = (Tensor("began", "INT64", (1,)), Tensor("ended", "INT64", (1,)))
    return Model(name, (Tensor("milliseconds", "INT32", (1,)),), outputs, max_batch_size=1, instances=instances, limit=limit)


def tab(name: str, *, instances: int, more: str = "") -> Model:
    """An amount in, the total of its sequence out; without SEQUENCES, the total of everybody."""
    amount, total = Tensor("amount", "FP32", (1,)), Tensor("total", "FP32", (1,))
    return Model(name, (amount,), (total,), max_batch_size=1, instances=instances, more=more)
