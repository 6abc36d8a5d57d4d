"""What runs before and after a lab, without torch: catalog, plan, backends, verdict, the learner's road."""
