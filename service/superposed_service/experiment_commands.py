"""`superposed experiment ...`: the paper's experiments."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from superposed.config import MLPConfig, OptimizerConfig, validated

__all__ = ["experiments"]

experiments = typer.Typer(no_args_is_help=True, help="The paper's experiments, with progress bars and plots.")


@experiments.callback()
def _experiments() -> None:
    """The paper's experiments: JSON and PNG under --results, resumable."""


@experiments.command("permuted-mnist")
def permuted_mnist(
    family: Annotated[str, typer.Option(help="phase, binary, complex, cyclic or rotation.")] = "binary",
    units: Annotated[int, typer.Option(help="Units of each of the three hidden layers.")] = 256,
    tasks: Annotated[int, typer.Option(help="How many permutations.")] = 50,
    steps: Annotated[int, typer.Option(help="Steps a task, of 128 rows.")] = 1000,
    optimizer: Annotated[str, typer.Option(help="rmsprop, adam or sgd.")] = "rmsprop",
    learning_rate: Annotated[
        float | None, typer.Option(help="Default: the paper's 1e-4, or a store's with --store-defaults.")
    ] = None,
    decay: Annotated[float, typer.Option(help="RMSprop's; TensorFlow's is 0.9.")] = OptimizerConfig().decay,
    epsilon: Annotated[
        float, typer.Option(help="RMSprop's; TensorFlow's is 1e-10.")
    ] = OptimizerConfig().epsilon,
    store_defaults: Annotated[
        bool, typer.Option(help="A store's defaults: LayerNorm, centred inputs, its learning rate.")
    ] = False,
    bias: Annotated[
        str | None, typer.Option(help="bound or shared; default: the paper's shared, or a store's.")
    ] = None,
    superposed: Annotated[bool, typer.Option(help="Run the superposed network.")] = True,
    standard: Annotated[bool, typer.Option(help="And the same network without contexts.")] = False,
    ewc: Annotated[bool, typer.Option(help="And elastic weight consolidation.")] = False,
    ewc_strength: Annotated[float, typer.Option(help="Of EWC's penalty.")] = 10.0,
    synaptic_intelligence: Annotated[bool, typer.Option(help="And synaptic intelligence.")] = False,
    synaptic_strength: Annotated[float, typer.Option(help="Of its penalty.")] = 1.0,
    separate: Annotated[
        bool, typer.Option(help="And one small network a task, of equal bytes in all.")
    ] = False,
    rehearsed: Annotated[bool, typer.Option(help="And a store that rehearses kept rows.")] = False,
    standard_rehearsed: Annotated[
        bool, typer.Option(help="And the network without contexts that rehearses as many.")
    ] = False,
    batch_ensemble: Annotated[
        bool, typer.Option(help="And BatchEnsemble's vectors for each task, of equal bytes in all.")
    ] = False,
    kept_rows: Annotated[int, typer.Option(help="Of each task, to be rehearsed.")] = 6000,
    consolidation: Annotated[int, typer.Option(help="Steps over kept rows after the last task.")] = 0,
    evaluate_every: Annotated[int, typer.Option(help="Measure after every so many tasks.")] = 1,
    budget: Annotated[int, typer.Option(help="Weights for `separate`; 0: as many as the network's.")] = 0,
    dataset: Annotated[str, typer.Option(help="An IDX data set in SUPERPOSED_DATA_DIR.")] = "mnist",
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.")] = 0,
    threads: Annotated[int, typer.Option(help="Threads; 0 leaves torch's default.")] = 0,
    results: Annotated[Path, typer.Option(help="Where the results go.")] = Path(
        "docs/results/permuted-mnist"
    ),
) -> None:
    """A new pixel permutation every 1,000 steps: how much of the first tasks is left?"""
    import torch

    from superposed.experiments.permuted import PAPERS_OPTIMIZER, PermutedConfig, run
    from superposed.experiments.plots import plot_permuted

    default = OptimizerConfig() if store_defaults else PAPERS_OPTIMIZER
    if threads:
        torch.set_num_threads(threads)
    common: dict[str, Any] = {
        "family": family,
        "units": units,
        "tasks": tasks,
        "steps": steps,
        "optimizer": {
            "name": optimizer,
            "learning_rate": learning_rate or default.learning_rate,
            "decay": decay,
            "epsilon": epsilon,
        },
        "normalisation": MLPConfig().normalisation if store_defaults else "none",
        "bias": bias or (MLPConfig().bias if store_defaults else "shared"),
        "centred": store_defaults,
        "dataset": dataset,
        "evaluate_every": evaluate_every,
        "seed": seed,
    }
    chosen = {
        "superposed": superposed,
        "standard": standard,
        "ewc": ewc,
        "synaptic-intelligence": synaptic_intelligence,
        "separate": separate,
        "rehearsed": rehearsed,
        "standard-rehearsed": standard_rehearsed,
        "batch-ensemble": batch_ensemble,
    }
    only: dict[str, dict[str, Any]] = {
        "ewc": {"strength": ewc_strength},
        "synaptic-intelligence": {"strength": synaptic_strength},
        # as tuned: separate networks gain most from centred inputs
        "separate": {"centred": True, "budget": budget},
        "rehearsed": {"kept_rows": kept_rows, "consolidation": consolidation},
        "standard-rehearsed": {"kept_rows": kept_rows},
    }
    for method in (name for name, wanted in chosen.items() if wanted):
        values = common | {"method": method} | only.get(method, {})
        result = run(validated(PermutedConfig, values), results)
        typer.echo(
            f"{result['config']['method']:>22}: after {len(result['mean'])} tasks, "
            f"task 1 {result['task_1'][-1]:.1f}, mean {result['mean'][-1]:.1f}"
        )
    typer.echo(f"Plots: {plot_permuted(results)}")
