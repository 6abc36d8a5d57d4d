"""An ensemble: models in a row, joined inside the server, so that nothing in between travels over the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """One model of an ensemble."""

    model: str
    inputs: Mapping[str, str]
    """What the model calls its input -> what the ensemble calls that tensor."""
    outputs: Mapping[str, str]
    """What the model calls its output -> what the ensemble calls that tensor."""


TEXT_TO_TEXT = (
    Step("encode", {"text": "text"}, {"input_ids": "prompt_ids"}),
    Step("tiny_batched", {"input_ids": "prompt_ids", "max_tokens": "max_tokens"}, {"output_ids": "new_ids"}),
    Step("decode", {"output_ids": "new_ids"}, {"text": "answer"}),
)
"""`text` and `max_tokens` in, `answer` out. A step runs as soon as its inputs are there: the order of the list does not matter."""


def step_text(step: Step) -> str:
    """One entry of `step [ ]`: model_name, model_version -1 (the newest), one input_map and one output_map per tensor.

    In `input_map { key: "text" value: "text" }` the key is the model's own name for the tensor, the value the ensemble's.
    """
    # SOLUTION 4
    maps = [f'input_map {{ key: "{own}" value: "{shared}" }}' for own, shared in step.inputs.items()]
    maps += [f'output_map {{ key: "{own}" value: "{shared}" }}' for own, shared in step.outputs.items()]
    return f'{{ model_name: "{step.model}" model_version: -1 {" ".join(maps)} }}'
    # END SOLUTION


def ensemble_text(steps: Sequence[Step]) -> str:
    """The block `ensemble_scheduling` of config.pbtxt."""
    entries = ",\n".join(f"    {step_text(step)}" for step in steps)
    return f"ensemble_scheduling {{\n  step [\n{entries}\n  ]\n}}"
