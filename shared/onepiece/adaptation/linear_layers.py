"""The linear layers of a model: which there are, which a method is to change, and how one is put in another's place.

    shapes = targeted_shapes(model, ("q_proj", "v_proj"))            # name -> (in, out): what a count as a formula needs
    replace_layer(model, name, MyLayer(model.get_submodule(name)))   # into the model
    replace_layer(model, name, plain_linear(weight, bias))           # and out again, merged

Names are those of `named_modules`. The output head is a linear layer too: who wants the others names them, or leaves it out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

Shapes = Mapping[str, tuple[int, int]]
"""Name of a linear layer -> (in, out)."""

ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The linear layers of a Llama or Qwen block; embeddings and head are not among them."""


def is_linear(module: nn.Module) -> bool:
    """Any layer that maps `in_features` to `out_features`: nn.Linear, its quantised relatives, an adapter's wrapper of one."""
    return hasattr(module, "in_features") and hasattr(module, "out_features")


def linear_shapes(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Name -> (in, out) of all linear layers of a model, in its order; what is inside a linear layer (an adapter's parts) is left out."""
    shapes: dict[str, tuple[int, int]] = {}
    outermost = None
    for name, module in model.named_modules():
        if outermost is not None and name.startswith(f"{outermost}."):
            continue
        if is_linear(module):
            outermost = name
            shapes[name] = (module.in_features, module.out_features)
    return shapes


def targeted_shapes(model_or_shapes: nn.Module | Shapes, targets: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Name -> (in, out) of the linear layers whose name ends with one of `targets`, in the order of the model.

    Args:
        model_or_shapes: a model, on the `meta` device too; or what `linear_shapes` gave of one.
        targets: whole last parts of names, such as `q_proj` or `self_attn.q_proj`, or whole names.

    Raises:
        ValueError: a target matches nothing; says what there is.
    """
    shapes = linear_shapes(model_or_shapes) if isinstance(model_or_shapes, nn.Module) else dict(model_or_shapes)
    for target in targets:
        if not any(_ends_with(name, target) for name in shapes):
            there = ", ".join(sorted({name.rpartition(".")[2] for name in shapes})) or "none"
            msg = f"no linear layer is named {target!r}; the linear layers here: {there}"
            raise ValueError(msg)
    return {name: shape for name, shape in shapes.items() if any(_ends_with(name, target) for target in targets)}


def _ends_with(name: str, target: str) -> bool:
    """Whole parts of a name only: `proj` is not the end of `layers.0.q_proj`, `q_proj` is."""
    return f".{name}".endswith(f".{target}")


def replace_layer(model: nn.Module, name: str, layer: nn.Module) -> None:
    """Put `layer` where the layer called `name` is.

    Raises:
        AttributeError: nothing of the model has the name under which the layer is to hang.
    """
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, layer)


def plain_linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """A frozen `nn.Linear` that holds these very numbers: nothing is copied.

    Args:
        weight: (out, in).
        bias: (out,), or None.
    """
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")  # no memory for weights to throw away
    layer.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias, requires_grad=False)
    return layer


def dense_weight(layer: nn.Module) -> Tensor:
    """The weight of a linear layer as numbers, (out, in): itself, or what 4 bits stand for."""
    if getattr(layer.weight, "quant_state", None) is None:  # it has one in a Linear4bit of bitsandbytes
        return layer.weight.detach()
    from bitsandbytes.functional import dequantize_4bit

    layer.state_dict()  # undoes the other order of bytes, and its bfloat16 scales, that evaluation on some CPUs leaves
    return dequantize_4bit(layer.weight.data, layer.weight.quant_state).to(layer.compute_dtype)


def forget_quantization(model: nn.Module) -> None:
    """Let the configuration say the truth about a model whose 4-bit layers were all made dense.

    A saved copy would be loaded as a 4-bit model otherwise. A model that still has 4-bit weights is left as it is.
    """
    config = getattr(model, "config", None)
    if hasattr(config, "quantization_config") and not any(hasattr(weight, "quant_state") for weight in model.parameters()):
        del config.quantization_config
