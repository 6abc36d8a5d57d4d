"""The models that the repository ships: their recipes, tokenizer, text, training, files, and what they can do."""
