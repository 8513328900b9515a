"""Hypothesis state machines, one per interface, that drive any implementation of it."""
