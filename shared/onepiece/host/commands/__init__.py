"""One module for each nox session that the host floor serves, named as the session is; `command` is what it runs."""
