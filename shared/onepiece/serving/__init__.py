"""Real servers for labs and for `nox -s serving`: how they are started and ended; what labs ask, load and watch them with."""
