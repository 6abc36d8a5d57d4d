"""P-tuning of lab 1.1.7: an LSTM written out gate by gate in float64, words in the text as the oracle of templates, and peft beside it."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_models
import torch
from lab_modules import lab_modules
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import cross_entropy

from onepiece.adaptation import CONFIG, WEIGHTS, changed_tensors, distance, in_peft, logits_of, out_of_peft, tensor_hashes, traced
from onepiece.data import IGNORED
from onepiece.training import History, train

NAMES = ("p_tuning", "prompt_files", "template_tokenizer", "vector_moves", "request_cost", "broken_variants")
p_tuning, prompt_files, template_tokenizer, vector_moves, request_cost, broken_variants = lab_modules("lab-1.1.7-p-tuning", *NAMES)

ANCHOR = 9
AROUND = p_tuning.Template(front=2, behind=2)
THREE = p_tuning.Template(front=1, before=2, behind=1)
KINDS = ("none", "mlp", "lstm")
IDS = torch.tensor([[5, 9, 7, 8, 9, 10], [11, 12, 9, 14, 2, 2]])
MASK = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
LABELS = IDS.masked_fill(MASK == 0, IGNORED).index_fill(1, torch.tensor([0]), IGNORED)
BATCH = {"input_ids": IDS, "attention_mask": MASK, "labels": LABELS}


def options(kind: str) -> Any:
    return p_tuning.EncoderSettings(kind, width=5)


def adapted(kind: str = "mlp", template: Any = THREE, seed: int = 0) -> Any:
    """A small random Llama with a fresh prompt."""
    return p_tuning.add_prompt(small_models.random_model(), template, options(kind), ANCHOR, seed=seed)


def numbers(tensor: Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


def sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))


def one_direction(inputs: np.ndarray, state: dict[str, np.ndarray], end: str, width: int) -> np.ndarray:
    """An LSTM layer step by step: input, forget, cell and output gate, in PyTorch's order."""
    hidden, cell, outputs = np.zeros(width), np.zeros(width), []
    for row in inputs:
        gates = state[f"weight_ih{end}"] @ row + state[f"bias_ih{end}"] + state[f"weight_hh{end}"] @ hidden + state[f"bias_hh{end}"]
        enter, forget, change, leave = np.split(gates, 4)
        cell = sigmoid(forget) * cell + sigmoid(enter) * np.tanh(change)
        hidden = sigmoid(leave) * np.tanh(cell)
        outputs.append(hidden)
    return np.stack(outputs)


def vectors_by_hand(prompt: Any) -> np.ndarray:
    vectors = numbers(prompt.table)
    if prompt.lstm is not None:
        state = {name: numbers(weight) for name, weight in prompt.lstm.named_parameters()}
        for layer in range(2):
            forwards = one_direction(vectors, state, f"_l{layer}", 5)
            backwards = one_direction(vectors[::-1], state, f"_l{layer}_reverse", 5)[::-1]
            vectors = np.concatenate([forwards, backwards], axis=1)
    layers = [] if prompt.mlp is None else [layer for layer in prompt.mlp if hasattr(layer, "weight")]
    for number, layer in enumerate(layers):
        vectors = vectors @ numbers(layer.weight).T + numbers(layer.bias)
        vectors = np.maximum(vectors, 0) if number < len(layers) - 1 else vectors
    return vectors


@pytest.mark.parametrize("kind", KINDS)
def test_the_encoder_is_the_one_written_out(kind: str) -> None:
    prompt = adapted(kind).prompt
    assert np.allclose(numbers(prompt()), vectors_by_hand(prompt), atol=1e-6)
    assert torch.allclose(prompt(), broken_variants.broken_vectors(prompt, None), atol=1e-6)
    assert torch.equal(adapted(kind).prompt(), prompt()) and not torch.equal(adapted(kind, seed=1).prompt(), prompt())


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_exported_is_what_comes_out_and_stays(kind: str) -> None:
    model = adapted(kind)
    kept = p_tuning.exported(model.prompt)
    again = p_tuning.TemplateModel(small_models.random_model(), kept, ANCHOR)
    assert distance(logits_of(again, BATCH), logits_of(model, BATCH)) < 1e-6
    before = kept().clone()
    with torch.no_grad():
        for weight in model.prompt.parameters():
            weight += 1
    assert torch.equal(kept(), before) and not kept().requires_grad and kept.template == THREE


@pytest.mark.parametrize("kind", KINDS)
def test_the_formula_is_the_count_and_the_base_stays(kind: str) -> None:
    model = adapted(kind)
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    assert p_tuning.trained_count(32, 4, options(kind)) == trained == broken_variants.broken_count(32, 4, options(kind), None)
    before = tensor_hashes(model.base)
    train(model, lambda number: BATCH, steps=2, learning_rate=1e-2, seed=0, progress=False)
    assert not changed_tensors(before, tensor_hashes(model.base))


def test_every_tensor_of_the_encoder_gets_a_gradient() -> None:
    for kind in ("mlp", "lstm"):
        model = adapted(kind)
        model(**BATCH).loss.backward()
        weights = model.prompt.encoder_parameters()
        assert len(weights) == {"mlp": 6, "lstm": 20}[kind]
        assert all(weight.grad is not None and weight.grad.any() for weight in weights.values())


@pytest.mark.parametrize("template", [THREE, AROUND, p_tuning.Template(front=3), p_tuning.Template(behind=3), p_tuning.Template(before=3)])
def test_vectors_of_words_do_what_the_words_do(template: Any) -> None:
    base = small_models.random_model()
    words = list(range(20, 20 + template.virtual_tokens))
    table = base.get_input_embeddings().weight.detach()
    model = p_tuning.TemplateModel(base, p_tuning.ExportedPrompt(table[words].clone(), template), ANCHOR)
    wanted, losses = [], []
    for ids, mask, labels in zip(IDS, MASK, LABELS, strict=True):
        row = ids[mask.bool()].tolist()
        at = max(place for place, token in enumerate(row) if token == ANCHOR)
        cut = [template.front, template.front + template.before]
        written = [*words[: cut[0]], *row[:at], *words[cut[0] : cut[1]], ANCHOR, *words[cut[1] :], *row[at + 1 :]]
        logits = base(torch.tensor([written])).logits[0]
        before_next, place = [], -1
        for token in [*row[1:], None]:
            place = len(written) - 1 if token is None else written.index(token, place + 2 if place >= 0 else template.front + 1) - 1
            before_next.append(place)
        wanted.append(logits[before_next])
        losses += [cross_entropy(logits[at_place], label) for at_place, label in zip(before_next, labels[mask.bool()][1:], strict=False)]
    assert distance(logits_of(model, BATCH), torch.cat(wanted)) < 1e-6
    assert float(model(**BATCH).loss) == pytest.approx(float(torch.stack(losses).mean()), abs=1e-5)
    left = {"input_ids": torch.nn.functional.pad(IDS, (3, 0)), "attention_mask": torch.nn.functional.pad(MASK, (3, 0))}
    assert distance(logits_of(model, left), torch.cat(wanted)) < 1e-6


def test_generation_reads_the_prompt_and_each_row_its_own_template() -> None:
    model, other = adapted("mlp"), adapted("lstm", AROUND, seed=3).prompt
    questions = IDS[:, :5]
    with model.using([model.prompt, other]):
        together = logits_of(model, {"input_ids": questions})
        written = model.generate(questions, torch.ones_like(questions), max_new_tokens=3, do_sample=False)
    for row, prompt in enumerate((model.prompt, other)):
        with model.using([prompt]):
            alone = logits_of(model, {"input_ids": questions[row : row + 1]})
            step = model(questions[row : row + 1]).logits[0, -1].argmax()
        assert distance(together[5 * row : 5 * row + 5], alone) < 1e-5
        assert int(written[row, 5]) == int(step)


@pytest.mark.parametrize("kind", ["MLP", "LSTM"])
def test_own_and_peft_train_alike_and_read_each_others_files(kind: str, tmp_path: Path) -> None:
    from peft import PromptEncoderConfig, get_peft_model

    own = adapted(kind.lower(), p_tuning.Template(4))
    config = PromptEncoderConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=4, encoder_reparameterization_type=kind, encoder_hidden_size=5
    )  # fmt: skip
    theirs = get_peft_model(small_models.random_model(), config)
    weights = dict(theirs.prompt_encoder["default"].named_parameters())
    for name, weight in own.prompt.named_parameters():
        renamed = name.replace("table", "embedding.weight").replace("mlp.", "mlp_head.").replace("lstm.", "lstm_head.")
        weights[renamed].data.copy_(weight)

    def run(model: torch.nn.Module) -> History:
        return train(model, lambda number: BATCH, steps=4, learning_rate=1e-2, seed=0, progress=False)

    apart = traced(own, run, BATCH).apart_from(traced(theirs, run, BATCH))
    assert max(apart.before, apart.loss, apart.after) < 1e-4
    write = functools.partial(prompt_files.save_prompt, own, settings=options(kind.lower()), base_model_name="small")
    assert distance(logits_of(in_peft(small_models.random_model(), write), BATCH), logits_of(own, BATCH)) < 1e-6
    again = out_of_peft(theirs, functools.partial(prompt_files.load_prompt, small_models.random_model(), anchor=ANCHOR))
    assert distance(logits_of(again, BATCH), logits_of(theirs, BATCH)) < 1e-6 and again.prompt.template == p_tuning.Template(4)


def test_training_goes_on_from_the_state_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    model = adapted("lstm")
    train(model, lambda number: BATCH, steps=3, learning_rate=1e-2, seed=0, progress=False)
    prompt_files.save_state(model.prompt, tmp_path)
    again = adapted("lstm", seed=5)
    prompt_files.load_state(again.prompt, tmp_path)
    assert distance(logits_of(again, BATCH), logits_of(model, BATCH)) < 1e-6
    with pytest.raises(ValueError, match="is of another encoder"):
        prompt_files.load_state(adapted("mlp").prompt, tmp_path)
    with pytest.raises(ValueError, match=r"made for another model: table is \(4, 32\), and this one takes \(8, 32\)"):
        prompt_files.load_state(adapted("lstm", p_tuning.Template(8)).prompt, tmp_path)
    with pytest.raises(FileNotFoundError, match="from the exported vectors alone training cannot go on"):
        prompt_files.load_state(model.prompt, tmp_path / "nothing")


def broken_file(directory: Path, change: Callable[[dict[str, Any], dict[str, Tensor]], object]) -> Path:
    """A saved prompt whose configuration or tensors were changed afterwards."""
    prompt_files.save_prompt(adapted(), directory, options("mlp"), "small")
    config = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
    tensors = {"prompt_embeddings": torch.zeros(4, 32)}
    change(config, tensors)
    (directory / CONFIG).write_text(json.dumps(config), encoding="utf-8")
    save_file(tensors, directory / WEIGHTS)
    return directory


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config, tensors: config.update(peft_type="PROMPT_TUNING"), "not plain P-tuning: peft_type"),
        (lambda config, tensors: config.update(num_virtual_tokens=5), "places 4 virtual tokens, and its file has 4"),
        (lambda config, tensors: config["template"].update(front=3), "places 6 virtual tokens, and its file has 4"),
        (lambda config, tensors: tensors.update(prompt_embeddings=torch.zeros(4, 31)), "made for another model"),
        (lambda config, tensors: tensors.update(more=torch.zeros(1)), "one tensor called prompt_embeddings"),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path: Path, change: Callable[..., object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prompt_files.load_prompt(small_models.random_model(), broken_file(tmp_path, change), ANCHOR)


def test_a_plain_model_reads_the_prompt_from_its_tokenizer(tmp_path: Path) -> None:
    base, tokenizer = small_models.random_model(), small_models.tokenizer()
    text = "27 + 15 →"
    anchor = tokenizer(text)["input_ids"][-1]
    prompt = p_tuning.exported(adapted("mlp", AROUND).prompt)
    wanted = p_tuning.TemplateModel(base, prompt, anchor)(torch.tensor([tokenizer(text)["input_ids"]])).logits[0, -1]
    plain, writing = template_tokenizer.with_template(base, tokenizer, prompt)
    ids = writing(text, return_tensors="pt")["input_ids"]
    new = len(tokenizer)
    assert ids[0].tolist() == [new, new + 1, *tokenizer(text)["input_ids"], new + 2, new + 3]
    logits = plain(ids).logits[0, -1]
    assert distance(logits[:new], wanted) < 1e-6
    assert torch.equal(logits[new:], logits[tokenizer.pad_token_id].expand(4)), "they are said as often as the padding"
    assert torch.equal(base(ids[:, 2:-2]).logits, small_models.random_model()(ids[:, 2:-2]).logits), "what was given is unchanged"
    plain.save_pretrained(tmp_path)
    assert torch.equal(type(plain).from_pretrained(tmp_path).eval()(ids).logits, plain(ids).logits)
    with pytest.raises(ValueError, match="not into its middle"):
        template_tokenizer.with_template(base, tokenizer, p_tuning.exported(adapted().prompt))
    with pytest.raises(ValueError, match="is a word of the vocabulary already"):
        template_tokenizer.with_template(plain, writing, prompt)
    with pytest.raises(ValueError, match="31 wide, the model 32"):
        template_tokenizer.with_template(base, tokenizer, p_tuning.ExportedPrompt(torch.zeros(4, 31), AROUND))


def test_moves_that_are_shared_and_moves_that_are_not() -> None:
    assert vector_moves.together(torch.ones(5, 3)) == pytest.approx(1.0)
    assert vector_moves.together(torch.eye(4)) == pytest.approx(1 / 4)
    prompt = adapted("none").prompt
    watch = vector_moves.Watch(prompt)
    with torch.no_grad():
        prompt.table[0] += 3.0
    watch(0)
    assert watch.lengths[0] == pytest.approx(3 * 32**0.5 / 4) and watch.common[0] == pytest.approx(1 / 4)


def test_flops_are_those_that_are_counted_and_keys_in_front_know_no_text() -> None:
    model = adapted("mlp", AROUND)
    read = model.inputs(IDS[:1])
    assert read.inputs_embeds.requires_grad
    for kept in (0, 2):
        assert request_cost.reading_flops(model.config, 10 - kept, kept) == request_cost.counted_flops(model.base, read, kept)
    other = request_cost.keys_read(model.base, model.inputs(IDS[:1].flip(1)))
    keys = request_cost.keys_read(model.base, read)
    assert keys.shape == (2, 1, 10, 16)
    assert torch.allclose(keys[:, :, :2], other[:, :, :2], atol=1e-6) and not torch.allclose(keys[:, :, 2:], other[:, :, 2:], atol=1e-2)


def test_what_cannot_be_a_prompt_is_refused() -> None:
    for wrong in ({}, {"front": -1, "behind": 3}):
        with pytest.raises(ValueError, match="at least 1 virtual token"):
            p_tuning.Template(**wrong)
    with pytest.raises(ValueError, match="encoder must be one of"):
        p_tuning.EncoderSettings("gru")
    with pytest.raises(ValueError, match="width and layers of at least 1"):
        p_tuning.EncoderSettings("mlp", 0)
    with pytest.raises(ValueError, match="leave no room"):
        adapted("none", p_tuning.Template(256))
    with pytest.raises(ValueError, match="the text has no such token"):
        adapted()(torch.tensor([[5, 6, 7]]))
    with pytest.raises(ValueError, match="257 positions, the model has 256"):
        adapted()(torch.full((1, 253), ANCHOR))
