"""Real servers for labs and for `nox -s serving`: how they are started, watched and ended."""
