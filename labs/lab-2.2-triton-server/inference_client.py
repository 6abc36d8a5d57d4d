"""Asking Triton, over HTTP or gRPC, with NVIDIA's `tritonclient`: NumPy arrays in and out."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.utils import np_to_triton_dtype

from onepiece.serving.servers import Server
from onepiece.serving.waiting import unchanged

REFUSED = (triton_grpc.InferenceServerException,)
"""What a client raises when the server says no, or is not there (`tritonclient.http` raises the same class)."""
COUNT_SECONDS = 15.0
"""Patience until the server has counted what it answered."""


def over_http(server: Server) -> triton_http.InferenceServerClient:
    """A client for the server's HTTP port; not for several threads at once."""
    return triton_http.InferenceServerClient(f"127.0.0.1:{server.ports['http']}", network_timeout=120.0)


def over_grpc(server: Server) -> triton_grpc.InferenceServerClient:
    """A client for the server's gRPC port."""
    return triton_grpc.InferenceServerClient(f"127.0.0.1:{server.ports['grpc']}")


def texts(*values: str) -> np.ndarray:
    """Strings as Triton takes them: (batch, 1) of bytes."""
    return np.array([[value.encode("utf-8")] for value in values], dtype=object)


def input_tensors(client: Any, inputs: Mapping[str, np.ndarray]) -> list[Any]:
    """Arrays as the client's own input objects: name, shape and type go with the data, and the server checks all three."""
    made = []
    for name, array in inputs.items():
        kind = triton_grpc if isinstance(client, triton_grpc.InferenceServerClient) else triton_http
        tensor = kind.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        made.append(tensor)
    return made


def infer(client: Any, model: str, inputs: Mapping[str, np.ndarray], version: str = "", **options: Any) -> dict[str, np.ndarray]:
    """One request and its outputs by name.

    Args:
        version: empty lets the server choose: the highest number that is ready.
        options: more arguments of `client.infer`, such as `sequence_id`.

    Raises:
        REFUSED: the server refused, or did not answer.
    """
    result = client.infer(model, input_tensors(client, inputs), model_version=version, **options)
    answer = result.get_response()
    names = [output["name"] for output in answer["outputs"]] if isinstance(answer, dict) else [output.name for output in answer.outputs]
    return {name: result.as_numpy(name) for name in names}


def counts(client: triton_http.InferenceServerClient, model: str, version: str = "") -> dict[str, int]:
    """What the server has counted for a model since it was loaded, over its versions or for one, once the numbers stand still.

    `inferences` are rows, `executions` calls of `execute`, `requests` those that were answered; `hits` and `misses` of the response cache.

    Raises:
        TimeoutError: they never stand still.
    """
    # A request is counted after its answer was sent.
    return unchanged(
        lambda: _counts_now(client, model, version), seconds=COUNT_SECONDS, pause=0.1, what=f"the counts of {model} stand still"
    )


def _counts_now(client: triton_http.InferenceServerClient, model: str, version: str) -> dict[str, int]:
    stats = client.get_inference_statistics(model, version)["model_stats"]
    found = {
        "inferences": sum(int(entry.get("inference_count", 0)) for entry in stats),
        "executions": sum(int(entry.get("execution_count", 0)) for entry in stats),
    }
    for name, key in (("requests", "success"), ("hits", "cache_hit"), ("misses", "cache_miss")):
        found[name] = sum(int(entry["inference_stats"][key].get("count", 0)) for entry in stats)
    return found


def rows_by_batch_size(client: triton_http.InferenceServerClient, model: str) -> dict[int, int]:
    """Batch size -> how many rows were computed in batches of that size."""
    rows: dict[int, int] = {}
    for entry in client.get_inference_statistics(model)["model_stats"]:
        for batch in entry.get("batch_stats", []):
            size = int(batch["batch_size"])
            rows[size] = rows.get(size, 0) + size * int(batch["compute_infer"]["count"])
    return rows


def streamed(
    server: Server, model: str, inputs: Mapping[str, np.ndarray], timeout: float = 60.0
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """The responses of a decoupled model, each as soon as it comes: (nanoseconds of the monotonic clock, outputs by name).

    Args:
        timeout: seconds to wait for the next response.

    Raises:
        REFUSED: the server answered with an error.
        queue.Empty: nothing came.
    """
    received: queue.Queue[tuple[int, Any, Exception | None]] = queue.Queue()
    with over_grpc(server) as client:
        client.start_stream(lambda result, error: received.put((time.monotonic_ns(), result, error)))
        client.async_stream_infer(model, input_tensors(client, inputs), enable_empty_final_response=True)
        while True:
            at, result, error = received.get(timeout=timeout)
            if error is not None:
                raise error
            answer = result.get_response()
            if answer.outputs:  # the last response may hold nothing but the news that it is the last
                yield at, {output.name: result.as_numpy(output.name) for output in answer.outputs}
            if answer.parameters["triton_final_response"].bool_param:
                return
