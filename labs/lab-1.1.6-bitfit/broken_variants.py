"""BitFit with exactly one mistake: what `checks.py` recognises, and the controls of the gates.

Nothing here calls the exercises, so that it says the same whatever they contain; with `mistake=None` it is right, written another way.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from onepiece.checks import check_mistake

NAME_MISTAKES = (
    "substring",  # "bias" anywhere in the name
    "dotted_only",  # a last part that is `bias`, to the letter
    "no_norms",  # those of linear layers alone
    "vectors",  # everything of one dimension: the weights of norms too
    "buffers",  # from the state of the model, which has buffers as well
)
FUSED_MISTAKES = (
    "thirds",  # all queries, all keys, all values: GPT-2's order
    "every_third",  # query, key, value, query, ...
    "one_head",  # of the first head only
    "reversed",  # values first
)
CARRY_MISTAKES = (
    "transposed",  # the columns of W; only in a square layer does that run
    "as_it_is",  # the shift itself, without W
    "replaced",  # the layer's own bias is lost
    "taken_away",  # the wrong sign
)
FREEZE_MISTAKES = (
    "nothing_frozen",  # the rest requires a gradient as before
    "whole_tensor",  # a bias is trained as a whole, although a part of it is meant
    "mask_inverted",  # the part that is not meant is trained
    "all_biases",  # biases that no mask names are trained too
)


def broken_names(model: nn.Module, mistake: str | None) -> list[str]:
    """Names of what is taken for a bias, in the order of the model, with one of NAME_MISTAKES or None.

    Raises:
        ValueError: there is no such mistake.
    """
    check_mistake(mistake, NAME_MISTAKES)
    if mistake == "substring":
        return [name for name, _ in model.named_parameters() if "bias" in name]
    if mistake == "vectors":
        return [name for name, parameter in model.named_parameters() if parameter.dim() == 1]
    if mistake == "buffers":
        return [name for name in model.state_dict() if name.endswith("bias")]
    found = []
    for place, module in model.named_modules():
        for name, _ in module.named_parameters(recurse=False):
            of_norm = "norm" in type(module).__name__.lower()
            left_out = (mistake == "no_norms" and of_norm) or (mistake == "dotted_only" and name != "bias")
            if name.endswith("bias") and not left_out:
                found.append(f"{place}.{name}" if place else name)
    return found


def broken_count(model: nn.Module, mistake: str | None) -> int:
    """How many numbers that is."""
    state = model.state_dict(keep_vars=True)
    return sum(state[name].numel() for name in broken_names(model, mistake))


def broken_fused(num_heads: int, head_dim: int, mistake: str | None) -> dict[str, Tensor]:
    """Masks of queries, keys and values, (3 * hidden,), with one of FUSED_MISTAKES or None.

    Raises:
        ValueError: there is no such mistake.
    """
    check_mistake(mistake, FUSED_MISTAKES)
    kinds = ("query", "key", "value")
    masks: dict[str, list[bool]] = {kind: [] for kind in kinds}
    for place in range(3 * num_heads * head_dim):
        third = place // head_dim % 3  # within its head
        if mistake == "thirds":
            third = place // (num_heads * head_dim)
        elif mistake == "every_third":
            third = place % 3
        elif mistake == "reversed":
            third = 2 - third
        inside = mistake != "one_head" or place < 3 * head_dim
        for number, kind in enumerate(kinds):
            masks[kind].append(inside and number == third)
    return {kind: torch.tensor(mask) for kind, mask in masks.items()}


def broken_carry(weight: Tensor, bias: Tensor, shift: Tensor, mistake: str | None) -> Tensor:
    """(out,): the bias of a layer that says what a shift before it said, with one of CARRY_MISTAKES or None.

    Raises:
        ValueError: there is no such mistake.
    """
    check_mistake(mistake, CARRY_MISTAKES)
    carried = (weight.T if mistake != "transposed" else weight).mul(shift[:, None]).sum(dim=0)  # (in, out) -> (out,)
    if mistake == "as_it_is":
        carried = shift
    return carried if mistake == "replaced" else bias - carried if mistake == "taken_away" else bias + carried


def broken_gradients(model: nn.Module, masks: dict[str, Tensor], inputs: Tensor, mistake: str | None) -> dict[str, Tensor]:
    """Name -> gradient of the sum of squared outputs, of what is trained with one of FREEZE_MISTAKES or None.

    Raises:
        ValueError: there is no such mistake.
    """
    check_mistake(mistake, FREEZE_MISTAKES)
    model.requires_grad_(True)
    model(inputs).square().sum().backward()
    gradients = {}
    for name, parameter in model.named_parameters():
        gradient = parameter.grad
        if name in masks and mistake != "whole_tensor":
            keep = masks[name] != (mistake == "mask_inverted" and not bool(masks[name].all()))
            gradient = torch.where(keep, gradient, torch.zeros_like(gradient))
        if name in masks or mistake == "nothing_frozen" or (mistake == "all_biases" and name.endswith("bias")):
            gradients[name] = gradient
    return gradients


# ---------------------------------------------------------------------------------------------- whole models


def freeze_by_zeroing(model: nn.Module) -> None:
    """The mistake of whoever lets everything require a gradient and sets those of the frozen part to zero, in place.

    An optimizer that decays weights still shrinks them: decay does not go through the gradient.
    """
    model.requires_grad_(True)
    biases = set(broken_names(model, None))
    for name, parameter in model.named_parameters():
        if name not in biases:
            parameter.register_hook(torch.zeros_like)


@torch.no_grad()
def values_as_last_third(model: nn.Module) -> nn.Module:
    """A model whose biases of the values are moved behind attention, in place, as if the fused layer had GPT-2's order."""
    for block in model.gpt_neox.layers:
        fused, dense = block.attention.query_key_value, block.attention.dense
        hidden = dense.weight.shape[0]
        dense.bias += dense.weight @ fused.bias[2 * hidden :]
        fused.bias[2 * hidden :] = 0
    return model


@torch.no_grad()
def shift_biases(biases: dict[str, nn.Parameter], masks: dict[str, Tensor], *, seed: int) -> None:
    """Add random numbers to the biases that the masks mean, in place."""
    generator = torch.Generator().manual_seed(seed)
    for name, mask in masks.items():
        biases[name] += (mask * torch.randn(mask.shape, generator=generator)).to(biases[name].device)
