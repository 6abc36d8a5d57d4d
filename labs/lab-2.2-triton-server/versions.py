"""Which versions of a model are served, and which one a user gets."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Policy:
    """`version_policy` of config.pbtxt: one of three. Without any word it is Triton's default, the latest one."""

    latest: int = 1
    """The so many highest numbers, if neither of the others is said."""
    specific: tuple[int, ...] = ()
    """These numbers."""
    all: bool = False
    """Every version that has a directory."""


def policy_text(policy: Policy) -> str:
    """The block `version_policy` of config.pbtxt."""
    if policy.all:
        return "version_policy { all { } }"
    if policy.specific:
        return f"version_policy {{ specific {{ versions: [ {', '.join(map(str, policy.specific))} ] }} }}"
    return f"version_policy {{ latest {{ num_versions: {policy.latest} }} }}"


def served_versions(policy: Policy, available: Sequence[int]) -> list[int]:
    """The versions that the server makes ready, in rising order, of those that have a directory (in any order).

    A version is a number: 10 is higher than 9. What `specific` names and nobody has is not served.
    """
    # SOLUTION 5
    if policy.all:
        return sorted(available)
    if policy.specific:
        return sorted(set(policy.specific) & set(available))
    return sorted(available)[-policy.latest :]
    # END SOLUTION


def hashed_share(user: str, experiment: str) -> float:
    """A number from 0 to 1 that looks random, but is always the same for this user and this experiment.

    It is below 1, except that the highest hashes of all are rounded to 1.0: a float has 53 bits, not 64.
    """
    digest = hashlib.sha256(f"{experiment}:{user}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def choose_version(user: str, weights: Mapping[int, float], experiment: str) -> int:
    """The version for a user: always the same one, and over many users in proportion to the weights.

    Args:
        weights: version -> its weight; they need not sum to 1. The share 0 to 1 is cut into one piece per version, in their order here,
            and the user gets the version in whose piece `hashed_share` falls. A piece begins with its first point and ends before its last
            one, which is the next one's first; 1.0 belongs to the last piece.
        experiment: another one deals the users anew.
    """
    # SOLUTION 6
    share, reached = hashed_share(user, experiment) * sum(weights.values()), 0.0
    for version, weight in weights.items():
        reached += weight
        if share < reached:
            return version
    return version  # 1.0, or the sum of the pieces was rounded to slightly less than the whole
    # END SOLUTION
