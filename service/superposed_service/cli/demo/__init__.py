"""`superposed demo`: real tasks, taught one after another over HTTP, and what is left of each."""

from superposed_service.cli.demo.run import run_demo

__all__ = ["run_demo"]
