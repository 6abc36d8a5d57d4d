"""A plain model behind `transformers serve`: its tokens are the local ones, and what cannot be served says why and leaves nothing running."""

from __future__ import annotations

from pathlib import Path

import parts
import pytest
import torch

from onepiece.models import load_model, model_directory
from onepiece.serving.plain_model import GREEDY, ServerError, complete, missing_packages, served


@pytest.fixture(autouse=True)
def needed() -> None:
    if missing := missing_packages():
        parts.missing("serve", f"{', '.join(missing)} not installed")


def test_served_tokens_are_the_local_ones_and_the_server_is_gone_afterwards() -> None:
    model, tokenizer = load_model("tiny", device="cpu", dtype=torch.float32)
    prompt = "27 + 15 →"
    inputs = tokenizer(tokenizer.bos_token + prompt, add_special_tokens=False, return_tensors="pt")
    with torch.inference_mode():
        new = model.generate(**inputs, **GREEDY, max_new_tokens=8)[0, inputs["input_ids"].shape[1] :]
    with served(model_directory("tiny")) as url:
        answer = complete(url, prompt, 8)
        with pytest.raises(ServerError, match="answered 500"):
            complete(url, prompt, -1)
    assert (answer.text, answer.completion_tokens) == (tokenizer.decode(new, skip_special_tokens=True), len(new))
    with pytest.raises(OSError):
        complete(url, prompt, 8, timeout=2.0)


def test_a_server_that_ends_says_so_with_its_last_lines(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match=r"ended with exit code \d+:\n(.|\n)*rror"), served(tmp_path, device="no-such-device"):
        pass
