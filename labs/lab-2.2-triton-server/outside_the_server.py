"""Import this before a module that becomes `model.py`: what the server's Python backend would bring is stood in for by an empty name.

The functions beside the model classes can then be called anywhere; the classes themselves need the server.
"""

from __future__ import annotations

import sys
import types

sys.modules.setdefault("triton_python_backend_utils", types.ModuleType("triton_python_backend_utils"))
