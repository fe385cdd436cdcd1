"""The `superposed` command, one module a group of commands."""
