"""What runs a notebook in the lab's environment, and what ends with whoever started it."""
