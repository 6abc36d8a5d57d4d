"""Grading: what a learner handed in, judged by the lab's checks."""
