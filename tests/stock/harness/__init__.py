"""Starts brokers and stock clients for the tests, and ends everything that it started."""
