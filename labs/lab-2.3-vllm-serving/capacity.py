"""How much load can one server take? An estimate from two measurements.

    model = StepModel.from_measurements(1, 0.003, 4, 0.006)        # a step takes 3 ms with 1 sequence, 6 ms with 4
    model.tokens_per_second(16)                             # 889
    model.at_once(rate=5.0, tokens=48)                      # requests under way at 5 requests per second of 48 tokens each

An engine works in steps: one pass through the model for all running sequences. With b sequences a step takes about c + d b seconds: c is
paid once (reading the weights, the Python around it), d for each sequence. Without speculation a step brings each sequence one token; with
it, as many as were accepted and one more, `tokens_per_step` on average. Everything below follows from that, and from Little's law
(https://doi.org/10.1287/opre.9.3.383): requests under way = arrivals per second times seconds that each stays.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StepModel:
    """A step with b sequences takes `fixed + per_sequence * b` seconds, and brings each of them `tokens_per_step` tokens on average."""

    fixed: float
    per_sequence: float
    tokens_per_step: float = 1.0
    """More than 1 where the server speculates. How much more depends on the text: measure it on requests like those to come."""

    @classmethod
    def from_measurements(
        cls, few: float, few_seconds: float, many: float, many_seconds: float, *, tokens_per_step: float = 1.0
    ) -> StepModel:
        """The line through two measured steps: `few` sequences took `few_seconds`, `many` took `many_seconds`.

        All four may be means over many steps: the mean of a line lies on it.
        """
        per_sequence = (many_seconds - few_seconds) / (many - few)
        return cls(few_seconds - per_sequence * few, per_sequence, tokens_per_step)

    def tokens_per_second(self, sequences: float) -> float:
        """With so many sequences in each step."""
        return self.tokens_per_step * sequences / (self.fixed + self.per_sequence * sequences)

    def highest_rate(self, tokens: float, most: int) -> float:
        """Requests per second, of `tokens` tokens each, that the server can answer when it may run `most` sequences at once."""
        return self.tokens_per_second(most) / tokens

    def at_once(self, rate: float, tokens: float) -> float:
        """Requests under way at `rate` requests per second of `tokens` tokens each; infinite if no server of this kind can follow.

        A request of s steps (its tokens, over those that a step brings) stays for W = s (fixed + per_sequence L), and Little's law says
        L = rate W. Solve for L.
        """
        # SOLUTION 8
        steps = tokens / self.tokens_per_step
        busy = rate * steps * self.per_sequence  # the share of the time that the sequences themselves take
        if busy >= 1:
            return float("inf")
        return rate * steps * self.fixed / (1 - busy)
        # END SOLUTION

    def seconds(self, rate: float, tokens: float) -> float:
        """How long a request stays at that load; Little's law again, the other way round."""
        return self.at_once(rate, tokens) / rate
