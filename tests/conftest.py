"""Fixtures for all tests."""

pytest_plugins = ["netlab.pytest_plugin"]
