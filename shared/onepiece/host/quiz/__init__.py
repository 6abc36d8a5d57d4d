"""Quizzes in a terminal: how a question looks, what an answer means, how somebody stands."""
