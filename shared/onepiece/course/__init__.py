"""The course as data: labs, quizzes, learning paths, places, texts and errors. Standard library only; both floors import it."""
