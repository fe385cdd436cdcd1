"""The configuration of a cluster: cells, their servers, and where those are."""

import os
import tomllib
from pathlib import Path

from pydantic import BaseModel, Field, ValidationError

from superposed.errors import ConfigError

# Variable with the cluster's own API key, of scope admin.
API_KEY = "SUPERPOSED_FOLLOW_API_KEY"


class ClusterConfig(BaseModel, extra="forbid", frozen=True, use_attribute_docstrings=True):
    """Configuration of a cluster: the fields of its TOML file."""

    name: str = "superposed"
    """Namespace of its Ray actors: a Ray cluster may hold several."""
    cells: list[str] = Field(min_length=1)
    """Names of the cells; one that is added later is empty at first."""
    servers: int = Field(1, ge=1)
    """Servers of a cell: a leader and its followers, each on a node of its own where there are as many nodes."""
    sync_followers: int = Field(0, ge=0)
    """Followers that must have a change on their disks before it is answered."""
    directory: str = "$HOME/superposed"
    """Folder of the data directories on each node; its environment variables are read there."""
    cpus: float = Field(1.0, gt=0)
    """CPUs that a server reserves of its node."""
    host: str = "0.0.0.0"  # noqa: S104 - a node is reached from the others
    """Address on which ingress and servers listen, on each node."""
    port: int = Field(8000, ge=1)
    """Port of the ingress, on each node."""
    first_port: int = Field(8100, ge=1)
    """Port of the first server; each further one has the next."""
    ingresses: int = Field(1, ge=1)
    """Processes of the ingress on each node, which share the port."""
    patterns: dict[str, str] = Field(default_factory=dict)
    """Cells of new tasks by patterns of their groups or keys; others are spread over all cells."""
    settings: dict[str, str | int | float | bool] = Field(default_factory=dict)
    """Settings of the servers, as `superposed config show` has them."""

    def port_of(self, cell: str, number: int) -> int:
        """Return the port of a server of a cell."""
        return self.first_port + self.cells.index(cell) * self.servers + number

    def environment(self, members: list[str], follow: str) -> dict[str, str]:
        """Return the settings of a server, in environment variables; its API key is this process's."""
        key = os.environ.get(API_KEY, "")
        known: dict[str, object] = {**self.settings, "members": ",".join(members), "follow": follow}
        known |= {"sync_followers": self.sync_followers, "host": self.host}
        known |= {"follow_api_key": key, "first_api_key": key} if key else {}
        return {f"SUPERPOSED_{name.upper()}": str(value) for name, value in known.items()}


def read_config(path: Path | None) -> ClusterConfig:
    """Return the configuration of a TOML file: the one named here, or by SUPERPOSED_CLUSTER; else `ConfigError`."""
    path = path or Path(os.environ.get("SUPERPOSED_CLUSTER", "cluster.toml"))
    try:
        config = ClusterConfig.model_validate(tomllib.loads(path.read_text()))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read", expected="a TOML file", received=str(error)) from None
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        raise ConfigError(f"{path}: {error}", expected="the fields of docs/cluster.md") from None
    if wrong := sorted(set(config.patterns.values()) - set(config.cells)):
        raise ConfigError(f"{path}: patterns name unknown cells", expected=f"{config.cells}", received=f"{wrong}")
    if config.sync_followers > config.servers - 1:
        text, most = f"{path}: more followers must have a change than there are", config.servers - 1
        raise ConfigError(text, expected=f"sync_followers of {most} at most", received=config.sync_followers)
    return config
