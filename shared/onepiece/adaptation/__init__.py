"""What the labs that fine-tune share: the base model and its tasks, and what every one of them compares, writes and reads.

- `tasks`: the base model, tasks that it cannot do, their training and score, what was forgotten;
- `linear_layers`: finding, counting and replacing the linear layers of a model;
- `wrapped_layers`: something trainable around a linear layer, into a model and out again;
- `comparison`: by logits, step by step against peft, bit by bit;
- `adapter_files`: files in peft's format, and peft beside us;
- `soft_prompt`, imported by its own name: vectors before a text, for the methods that train those and nothing inside the model;
- `prefix_cache`, likewise: keys and values in the cache before those of a text, another in each row of a batch.

A lab of this kind then holds only its method: what is put into the model before `fit`.
"""

from __future__ import annotations

from onepiece.adaptation.adapter_files import (
    CONFIG,
    WEIGHTS,
    common_config,
    data_bytes,
    directory_bytes,
    expect_shape,
    fitting_layer,
    in_peft,
    layer_tensors,
    out_of_peft,
    read_config,
    read_tensors,
    save_peft_model,
    write_adapter,
)
from onepiece.adaptation.comparison import (
    Apart,
    Trace,
    changed_tensors,
    distance,
    largest_difference,
    logits_of,
    loss_difference,
    tensor_hashes,
    traced,
)
from onepiece.adaptation.linear_layers import (
    ALL_LINEAR,
    Shapes,
    dense_weight,
    forget_quantization,
    is_linear,
    linear_shapes,
    plain_linear,
    replace_layer,
    targeted_shapes,
)
from onepiece.adaptation.tasks import Task, accuracy, base_identity, batches, best_constant, fit, forgetting, load_base, load_task
from onepiece.adaptation.wrapped_layers import WrappedLinear, base_names, fold_layers, wrap_layers, wrapped_layers

__all__ = [
    "ALL_LINEAR",
    "CONFIG",
    "WEIGHTS",
    "Apart",
    "Shapes",
    "Task",
    "Trace",
    "WrappedLinear",
    "accuracy",
    "base_identity",
    "base_names",
    "batches",
    "best_constant",
    "changed_tensors",
    "common_config",
    "data_bytes",
    "dense_weight",
    "directory_bytes",
    "distance",
    "expect_shape",
    "fit",
    "fitting_layer",
    "fold_layers",
    "forget_quantization",
    "forgetting",
    "in_peft",
    "is_linear",
    "largest_difference",
    "layer_tensors",
    "linear_shapes",
    "load_base",
    "load_task",
    "logits_of",
    "loss_difference",
    "out_of_peft",
    "plain_linear",
    "read_config",
    "read_tensors",
    "replace_layer",
    "save_peft_model",
    "targeted_shapes",
    "tensor_hashes",
    "traced",
    "wrap_layers",
    "wrapped_layers",
    "write_adapter",
]
