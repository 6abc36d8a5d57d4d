"""BitFit: the bias terms are trained, and nothing else. No layer is added, so that what comes out is a model like any other.

Read from top to bottom: which numbers are biases, of which kind each is, training them alone, how many there are, and which of them
say the same as others. Source: Ben Zaken, Ravfogel and Goldberg (2021), https://arxiv.org/abs/2106.10199.

    y = W x + b     W stays, b moves
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Masks = Mapping[str, Tensor]
"""Name of a bias -> which of its numbers are meant, a bool for each: (out,)."""

# ---------------------------------------------------------------------------------------------- 1. which numbers are biases


# Exercise 1. A name is made of parts, `layers.0.mlp.up.bias`. Which part says what a parameter *is*, and which only where it hangs?
# PyTorch also has biases called `in_proj_bias`; T5 has a table of embeddings, a matrix, in a module called `relative_attention_bias`.
def bias_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Name -> bias term, those of norms too, in the order of the model; buffers are none."""
    # SOLUTION 1
    return {name: parameter for name, parameter in model.named_parameters() if name.rpartition(".")[2].endswith("bias")}
    # END SOLUTION


# ---------------------------------------------------------------------------------------------- 2. of which kind each is

KINDS = {
    "query": r"q_proj\.bias",
    "key": r"k_proj\.bias",
    "value": r"v_proj\.bias",
    "after attention": r"(attention\.dense|o_proj)\.bias",
    "inside the MLP": r"(dense_h_to_4h|gate_proj|up_proj)\.bias",
    "after the MLP": r"(dense_4h_to_h|down_proj)\.bias",
    "norm before": r"(input|post_attention)_layernorm\.bias",
    "last norm": r"(final_layer_norm|model\.norm)\.bias",
}
"""Kind -> how the names of its biases end, in a GPT-NeoX, a Llama or a Qwen."""
FUSED = ("query", "key", "value")


# Exercise 2. GPT-NeoX computes queries, keys and values in one layer, whose outputs it then reads as
#     (batch, seq, 3 * hidden) -> (batch, seq, heads, 3 * head_dim) -> queries, keys and values are thirds of the *last* dimension
# So which of the 3 * hidden biases are those of the queries? Give a mask of bools for each of FUSED.
def fused_masks(num_heads: int, head_dim: int) -> dict[str, Tensor]:
    """`query`, `key`, `value` -> (3 * heads * head_dim,) bool: which outputs of a fused layer are its."""
    # SOLUTION 2
    masks = {}
    for third, kind in enumerate(FUSED):
        mask = torch.zeros(num_heads, 3, head_dim, dtype=torch.bool)
        mask[:, third] = True
        masks[kind] = mask.flatten()  # (heads, 3, head_dim) -> (3 * hidden,)
    return masks
    # END SOLUTION


def masks_by_kind(model: nn.Module) -> dict[str, dict[str, Tensor]]:
    """Kind -> the masks of its biases; only the kinds that the model has. Every bias is of exactly one kind.

    Raises:
        ValueError: a bias is of no kind that is known; says which.
    """
    found: dict[str, dict[str, Tensor]] = {kind: {} for kind in KINDS}
    for name, bias in bias_parameters(model).items():
        if name.endswith("query_key_value.bias"):
            config = model.config
            heads = config.num_attention_heads
            for kind, mask in fused_masks(heads, config.hidden_size // heads).items():
                found[kind][name] = mask
            continue
        kinds = [kind for kind, ending in KINDS.items() if re.search(rf"(^|\.){ending}$", name)]
        if not kinds:
            msg = f"of which kind is {name}? Say so in KINDS of bitfit.py"
            raise ValueError(msg)
        found[kinds[0]][name] = torch.ones(bias.shape, dtype=torch.bool)
    return {kind: masks for kind, masks in found.items() if masks}


def chosen_masks(model: nn.Module, kinds: Iterable[str] | None) -> dict[str, Tensor]:
    """The masks of some kinds together, or of all biases, whatever their kind.

    Raises:
        ValueError: the model has no such biases; says which kinds it has.
    """
    if kinds is None:
        return {name: torch.ones(bias.shape, dtype=torch.bool) for name, bias in bias_parameters(model).items()}
    by_kind = masks_by_kind(model)
    together: dict[str, Tensor] = {}
    for kind in kinds:
        if kind not in by_kind:
            msg = f"there are no biases of the kind {kind!r} here; there are: {', '.join(by_kind) or 'none'}"
            raise ValueError(msg)
        for name, mask in by_kind[kind].items():
            together[name] = together[name] | mask if name in together else mask
    return together


# ---------------------------------------------------------------------------------------------- 3. training them alone


# Exercise 3. Three ways to "freeze" a weight: it does not require a gradient; its gradient is set to zero; its optimizer has a rate of
# zero. Use the first for whatever `masks` does not name. For a tensor of which only a part is meant there is only the second: its
# gradient is multiplied by the mask (`register_hook`). Why is that no danger to a bias, and would be one to a matrix?
def require_gradients(model: nn.Module, masks: Masks) -> None:
    """Make the numbers that the masks mean trainable, and freeze all others, in place."""
    # SOLUTION 3
    model.requires_grad_(False)
    parameters = dict(model.named_parameters())
    for name, mask in masks.items():
        parameter = parameters[name].requires_grad_(True)
        if not mask.all():
            meant = mask.to(parameter.device)
            parameter.register_hook(lambda gradient, meant=meant: gradient * meant)
    # END SOLUTION


def train_biases_only(model: nn.Module, kinds: Iterable[str] | None = None) -> int:
    """Make the biases trainable and freeze the rest, in place. A model is made ready once: load it anew for other kinds.

    Args:
        kinds: some of KINDS; None: all biases.

    Returns:
        How many numbers are trained.

    Raises:
        ValueError: the model has no biases at all, or none of a kind; says what to do. The model is then as it was.
    """
    if not bias_parameters(model):
        msg = (
            f"{type(model).__name__} has no biases: its linear layers have none, and its norms only scale. Take a model that has some "
            "(tiny-bias, a GPT-NeoX, Qwen2.5), give this one new ones (with_new_biases), or use LoRA or (IA)3, which need none"
        )
        raise ValueError(msg)
    masks = chosen_masks(model, kinds)
    require_gradients(model, masks)
    return sum(int(mask.sum()) for mask in masks.values())


# ---------------------------------------------------------------------------------------------- 4. how many there are


@dataclass(frozen=True)
class Architecture:
    """What the number of biases depends on; widths in numbers."""

    blocks: int
    hidden: int
    keys_and_values: int
    """Width of the keys, and of the values: less than `hidden` where heads share them."""
    inside: int
    """Width of the inside of the MLP."""
    on_attention_inputs: bool = True
    """Queries, keys and values have biases."""
    on_other_layers: bool = True
    """The layer after attention and both layers of an MLP without gate have."""
    on_norms: bool = True
    """LayerNorm has a bias, RMSNorm has none. Two norms in a block, and one at the end."""


def bias_count(architecture: Architecture) -> int:
    """How many biases a decoder has: the formula."""
    block = 0
    if architecture.on_attention_inputs:
        block += architecture.hidden + 2 * architecture.keys_and_values
    if architecture.on_other_layers:
        block += architecture.hidden + architecture.inside + architecture.hidden
    if architecture.on_norms:
        block += 2 * architecture.hidden
    return architecture.blocks * block + (architecture.hidden if architecture.on_norms else 0)


# ---------------------------------------------------------------------------------------------- 5. biases for a model without


# Exercise 5. A Llama is built without biases, but its configuration has two options for them: `attention_bias` and `mlp_bias`. Build a
# model of the same class with both, give it the old weights, and set every new bias so that nothing changes. Refuse, with a
# ValueError, a model whose configuration does not know these options; the model that is given stays as it is.
@torch.no_grad()
def with_new_biases(model: nn.Module) -> nn.Module:
    """A model of the same class with biases in all linear layers of its blocks, which computes the same as the one given.

    Raises:
        ValueError: the configuration has no such options.
    """
    config = copy.deepcopy(model.config)
    # SOLUTION 5
    for option in ("attention_bias", "mlp_bias"):
        if not hasattr(config, option):
            msg = f"{type(config).__name__} has no {option}: this architecture cannot be built with biases; use LoRA or (IA)3"
            raise ValueError(msg)
        setattr(config, option, True)
    larger = type(model)(config).to(model.device, model.dtype)
    missing = larger.load_state_dict(model.state_dict(), strict=False).missing_keys
    for name in missing:  # Transformers begins them at zero too: a default that a method should not rest on
        larger.get_parameter(name).zero_()
    # END SOLUTION
    return larger.train(model.training)
