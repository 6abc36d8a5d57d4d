"""What runs before and after a lab, without torch: command lines, the road from manifest to verdict, containers, progress."""
