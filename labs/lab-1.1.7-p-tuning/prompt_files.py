"""Two kinds of files: what answers are given with, in the format of peft, and what training goes on from.

adapter_config.json        how many virtual tokens, how wide, which encoder there was; the template, if peft's would be wrong
adapter_model.safetensors  the vectors, and nothing else: neither the encoder nor the table that goes into it
training_state.safetensors the encoder and its table; nobody needs it for answers, and nobody can go on without it
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from onepiece.adaptation import common_config, expect_shape, read_config, read_tensors, write_adapter
from p_tuning import EncoderSettings, ExportedPrompt, PromptEncoder, Template, TemplateModel, exported

if TYPE_CHECKING:
    from transformers import PreTrainedModel

STATE = "training_state.safetensors"
_NOT_USED: dict[str, Any] = {"peft_type": "P_TUNING", "num_transformer_submodules": 1, "modules_to_save": None}

# ---------------------------------------------------------------------------------------------- for answers


def prompt_config(model: TemplateModel, settings: EncoderSettings, base_model_name: str) -> dict[str, Any]:
    """What stands in adapter_config.json. peft puts all vectors in front: where that is wrong `template` says so, which peft ignores."""
    template = model.prompt.template
    elsewhere = {} if template.front == template.virtual_tokens else {"template": asdict(template)}
    return (
        common_config("P_TUNING", base_model_name)
        | elsewhere
        | {
            "num_virtual_tokens": template.virtual_tokens,
            "token_dim": model.config.hidden_size,
            "num_transformer_submodules": 1,
            "num_attention_heads": model.config.num_attention_heads,
            "num_layers": model.config.num_hidden_layers,
            "encoder_reparameterization_type": settings.kind.upper() if settings.kind != "none" else "MLP",
            "encoder_hidden_size": settings.width,
            "encoder_num_layers": settings.layers,
        }
    )


def save_prompt(model: TemplateModel, directory: Path | str, settings: EncoderSettings, base_model_name: str) -> Path:
    """Write what answers need; the directory, made if need be."""
    vectors = exported(model.prompt).vectors.cpu().contiguous()
    return write_adapter(directory, prompt_config(model, settings, base_model_name), {"prompt_embeddings": vectors})


def read_prompt(directory: Path | str, hidden: int) -> ExportedPrompt:
    """A saved prompt, frozen, for a base of this width; one that peft wrote has all its vectors in front.

    Raises:
        FileNotFoundError: there is no adapter in the directory.
        ValueError: it is not of P-tuning, has no vectors, was made for a base of another width, or its two files contradict each
            other; says what.
    """
    config, tensors = read_config(directory, "P-tuning", unused=_NOT_USED), read_tensors(directory)
    if set(tensors) != {"prompt_embeddings"}:
        msg = f"{directory}: a prompt is one tensor called prompt_embeddings, and the file has {', '.join(sorted(tensors)) or 'none'}"
        raise ValueError(msg)
    vectors = tensors["prompt_embeddings"]
    expect_shape("prompt_embeddings", vectors, (None, hidden))
    template = Template(**config.get("template", {"front": config["num_virtual_tokens"]}))
    if template.virtual_tokens != len(vectors) or config["num_virtual_tokens"] != len(vectors):
        msg = f"{directory}: its configuration places {template.virtual_tokens} virtual tokens, and its file has {len(vectors)}"
        raise ValueError(msg)
    return ExportedPrompt(vectors, template).requires_grad_(False)


def load_prompt(base: PreTrainedModel, directory: Path | str, anchor: int) -> TemplateModel:
    """A base with a saved prompt in its texts, frozen; raises what `read_prompt` raises."""
    return TemplateModel(base, read_prompt(directory, base.get_input_embeddings().weight.shape[1]), anchor)


# ---------------------------------------------------------------------------------------------- for more training


# Exercise 7. Training is to go on tomorrow. Which tensors has tomorrow to know? Each one under the name that it has in the module;
# detached, on the CPU. (The optimizer's state is another file, as ever.)
def state_to_go_on(prompt: PromptEncoder) -> dict[str, Tensor]:
    """Name -> tensor, of all that training has changed."""
    # SOLUTION 7
    return {name: weight.detach().cpu().contiguous() for name, weight in prompt.named_parameters()}
    # END SOLUTION


def save_state(prompt: PromptEncoder, directory: Path | str) -> Path:
    """Write what training goes on from; the file."""
    path = Path(directory) / STATE
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state_to_go_on(prompt), path)
    return path


def load_state(prompt: nn.Module, directory: Path | str) -> None:
    """Put a saved state into a prompt whose template and encoder are the same, in place.

    Raises:
        FileNotFoundError: there is no state in the directory. From the exported vectors alone an encoder cannot be had back.
        ValueError: the state is that of another encoder or template; says what is missing or does not fit.
    """
    path = Path(directory) / STATE
    if not path.is_file():
        msg = f"no {STATE} in {directory}: from the exported vectors alone training cannot go on; save the state while it runs"
        raise FileNotFoundError(msg)
    state, wanted = load_file(path), dict(prompt.named_parameters())
    if set(state) != set(wanted):
        msg = f"{path} is of another encoder: {min(set(state) ^ set(wanted))} is not in both"
        raise ValueError(msg)
    for name, tensor in state.items():
        expect_shape(name, tensor, tuple(wanted[name].shape))
    prompt.load_state_dict(state)
