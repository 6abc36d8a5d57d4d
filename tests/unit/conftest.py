"""Settings of the property tests."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# No deadline: how fast this machine is at the moment is nobody's bug.
settings.register_profile("road", deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("road")
