"""What the labs that fine-tune share: the base model and its tasks, and what every one of them compares.

A lab of this kind then holds only its method: what is put into the model before `fit`.
"""

from __future__ import annotations

from onepiece.adaptation.tasks import Task, accuracy, batches, fit, forgetting, load_base, load_task

__all__ = ["Task", "accuracy", "batches", "fit", "forgetting", "load_base", "load_task"]
