"""What a learner did, kept as events on this machine, and everything that is shown from them."""
