"""The serving stack without Docker: the settings and parts of `compose/serving.yaml` as processes."""
