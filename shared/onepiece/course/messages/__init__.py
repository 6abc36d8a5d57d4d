"""The sentences of every error, cause and remedy in both languages, by who says them."""
