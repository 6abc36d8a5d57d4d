"""The mistakes that people make with a model repository, each one made on purpose in a directory of its own."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from diagnosis import Request
from lesson_models import linear
from model_repository import Tensor, write_model
from onepiece.course.text import Text


def replaced(old: str, new: str) -> Callable[[Path], object]:
    """Change the text of config.pbtxt."""

    def change(directory: Path) -> None:
        path = directory / "config.pbtxt"
        path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")

    return change


@dataclass(frozen=True)
class Mistake:
    """One mistake: something else in the configuration of `linear`, in its directory, or in the request."""

    name: str
    what: Text
    config: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `Model` that are changed."""
    edit: Callable[[Path], object] | None = None
    """What is done to the finished directory."""
    rows: int = 1
    """The client sends so many rows of features, float32."""

    @property
    def request(self) -> Request:
        """The same for all but one: features as the code wants them."""
        return Request({"features": np.ones((self.rows, linear().inputs[0].dims[0]), dtype=np.float32)})


X, Y = linear().inputs[0], linear().outputs[0]
MASK = Tensor("mask", "FP32", (4,))
MISTAKES = (
    Mistake("sound", Text("nothing is wrong", "沒有錯")),
    Mistake("m_typo", Text("a field is misspelled", "欄位名稱打錯"), edit=replaced("max_batch_size", "max_batchsize")),
    Mistake("m_type_name", Text("TYPE_FLOAT32 for TYPE_FP32", "TYPE_FP32 寫成 TYPE_FLOAT32"), edit=replaced("TYPE_FP32", "TYPE_FLOAT32")),
    Mistake(
        "m_name", Text("the directory was renamed, the config was not", "改了目錄名稱，沒改設定"), edit=replaced('"m_name"', '"linear"')
    ),
    Mistake("m_no_version", Text("the version directory is missing", "少了版本目錄"), edit=lambda path: shutil.rmtree(path / "1")),
    Mistake(
        "m_version_name", Text("the version directory is called v1", "版本目錄叫做 v1"), edit=lambda path: (path / "1").rename(path / "v1")
    ),
    Mistake("m_backend", Text("a backend that this server does not have", "這台伺服器沒有的 backend"), {"backend": "onnxruntime"}),
    Mistake("m_gpu", Text("KIND_GPU on a machine without one", "沒有 GPU 的機器寫了 KIND_GPU"), {"kind": "KIND_GPU"}),
    Mistake("m_zero", Text("dims: [ 0 ]", "dims: [ 0 ]"), {"inputs": (replace(X, dims=(0,)),)}),
    Mistake(
        "m_weights",
        Text("a file that the code reads is missing", "少了程式碼要讀的檔案"),
        edit=lambda path: (path / "1/weights.npy").unlink(),
    ),
    Mistake(
        "m_syntax",
        Text("model.py is not Python", "model.py 不是合法的 Python"),
        edit=lambda path: (path / "1/model.py").write_text("def x(:\n"),
    ),
    Mistake(
        "m_dims", Text("the config says 3 features, clients send 4", "設定寫 3 個特徵，用戶端送 4 個"), {"inputs": (replace(X, dims=(3,)),)}
    ),
    Mistake("m_batch_twice", Text("dims counts the batch too", "dims 也算了批次"), {"inputs": (replace(X, dims=(-1, 4)),)}),
    Mistake("m_no_batch", Text("max_batch_size: 0, clients send a batch", "max_batch_size: 0，用戶端卻送批次"), {"max_batch_size": 0}),
    Mistake("m_batch", Text("a batch of 9 where 8 is the most", "上限 8，卻送出 9 筆的批次"), rows=9),
    Mistake(
        "m_type", Text("the config says FP64, clients send FP32", "設定寫 FP64，用戶端送 FP32"), {"inputs": (replace(X, data_type="FP64"),)}
    ),
    Mistake("m_input", Text("the input has another name", "輸入的名稱不同"), {"inputs": (replace(X, name="input"),)}),
    Mistake("m_more_inputs", Text("the config asks for an input that nobody sends", "設定要求一個沒有人送的輸入"), {"inputs": (X, MASK)}),
    Mistake("m_optional", Text("the same, but optional", "同上，但設為 optional"), {"inputs": (X, replace(MASK, optional=True))}),
    Mistake(
        "m_output", Text("the output is not called as in the code", "輸出的名稱與程式碼不同"), {"outputs": (replace(Y, name="score"),)}
    ),
    Mistake(
        "m_output_dims",
        Text("the config says 3 scores, the code makes 2", "設定寫 3 個分數，程式碼產生 2 個"),
        {"outputs": (replace(Y, dims=(3,)),)},
    ),
    Mistake(
        "m_output_type",
        Text("the config says FP64, the code makes FP32", "設定寫 FP64，程式碼產生 FP32"),
        {"outputs": (replace(Y, data_type="FP64"),)},
    ),
)


def make(mistake: Mistake, repository: Path, weights: np.ndarray) -> Path:
    """Write the directory of a mistake into the repository; `weights` are those of `linear`, (features, scores)."""
    model = replace(linear(mistake.name), **mistake.config)
    directory = write_model(repository, model, "linear_model", {1: {"weights": weights}})
    if mistake.edit:
        mistake.edit(directory)
    return directory
