"""Loads the plugin in a checkout that is not installed too; installed, it is there already."""

pytest_plugins = ["harness.pytest_plugin"]
