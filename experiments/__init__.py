"""The paper's experiments, as commands that write JSON and PNG."""
