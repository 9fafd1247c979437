"""Measurements against plain PyTorch, in one run on one machine. `genlab bench` prints them and writes JSON."""
