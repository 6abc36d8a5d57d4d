"""From `lab.toml` to a verdict on this machine: facts, plan, environment, run directory, execution, gates, report."""
