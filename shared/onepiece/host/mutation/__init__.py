"""Mutants of a lab's reference solutions: do its checks and gates notice when a line is wrong?"""
