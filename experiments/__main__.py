"""`python -m experiments NAME`: the paper's experiments, and those of this project."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from superposed.config import MLPConfig, OptimizerConfig, validated

experiments = typer.Typer(no_args_is_help=True, help="The paper's experiments, with progress bars and plots.")


@experiments.callback()
def _experiments() -> None:
    """Run an experiment: JSON and PNG under --results, resumable."""


@experiments.command("permuted-mnist")
def permuted_mnist(
    family: Annotated[str, typer.Option(help="phase, binary, complex, cyclic or rotation.")] = "binary",
    units: Annotated[int, typer.Option(help="Units of each hidden layer.")] = 256,
    hidden_layers: Annotated[int, typer.Option(help="How many hidden layers.")] = 3,
    tasks: Annotated[int, typer.Option(help="How many permutations.")] = 50,
    steps: Annotated[int, typer.Option(help="Steps a task, of 128 rows.")] = 1000,
    optimizer: Annotated[str, typer.Option(help="rmsprop, adam or sgd.")] = "rmsprop",
    learning_rate: Annotated[
        float | None, typer.Option(help="Default: the paper's 1e-4, or a store's with --store-defaults.")
    ] = None,
    decay: Annotated[float, typer.Option(help="RMSprop's; TensorFlow's is 0.9.")] = OptimizerConfig().decay,
    epsilon: Annotated[float, typer.Option(help="RMSprop's; TensorFlow's is 1e-10.")] = OptimizerConfig().epsilon,
    store_defaults: Annotated[
        bool, typer.Option(help="As a store: LayerNorm, centred inputs, a bound bias, and a learning rate for them.")
    ] = False,
    activation: Annotated[str, typer.Option(help="relu, gelu, silu or tanh.")] = "relu",
    bias: Annotated[
        str | None, typer.Option(help="bound or shared; default: the paper's shared, or a store's.")
    ] = None,
    superposed: Annotated[bool, typer.Option(help="Run the superposed network.")] = True,
    standard: Annotated[bool, typer.Option(help="And the same network without contexts.")] = False,
    ewc: Annotated[bool, typer.Option(help="And elastic weight consolidation.")] = False,
    ewc_strength: Annotated[float, typer.Option(help="Of EWC's penalty.")] = 10.0,
    synaptic_intelligence: Annotated[bool, typer.Option(help="And synaptic intelligence.")] = False,
    synaptic_strength: Annotated[float, typer.Option(help="Of its penalty.")] = 1.0,
    separate: Annotated[bool, typer.Option(help="And one small network a task, of equal bytes in all.")] = False,
    rehearsed: Annotated[bool, typer.Option(help="And a store that rehearses kept rows.")] = False,
    standard_rehearsed: Annotated[
        bool, typer.Option(help="And the network without contexts that rehearses as many.")
    ] = False,
    batch_ensemble: Annotated[
        bool, typer.Option(help="And BatchEnsemble's vectors for each task, of equal bytes in all.")
    ] = False,
    kept_rows: Annotated[int, typer.Option(help="Of each task, to be rehearsed.")] = 6000,
    logit_share: Annotated[
        float, typer.Option(help="Weight (0 to 1) of the logit-matching loss for rehearsed rows.")
    ] = 0.0,
    own_ratio: Annotated[
        float, typer.Option(help="Earlier rows of the task itself with each new row, for `rehearsed`.")
    ] = 0.0,
    consolidation: Annotated[int, typer.Option(help="Steps over kept rows after the last task.")] = 0,
    evaluate_every: Annotated[int, typer.Option(help="Tasks between two measurements.")] = 1,
    budget: Annotated[int, typer.Option(help="Weights for `separate`; 0: as many as the network's.")] = 0,
    dataset: Annotated[str, typer.Option(help="An IDX data set in SUPERPOSED_DATA_DIR.")] = "mnist",
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.")] = 0,
    threads: Annotated[int, typer.Option(help="Threads; 0 leaves torch's default.")] = 0,
    results: Annotated[Path, typer.Option(help="Where the results go.")] = Path("docs/results/permuted-mnist"),
) -> None:
    """Learn a new pixel permutation every 1,000 steps, and measure what is left of the first tasks."""
    import torch

    from experiments.permuted import PAPERS_OPTIMIZER, PermutedConfig, run
    from experiments.plots import plot_permuted

    default = PAPERS_OPTIMIZER.replace(learning_rate=3e-5) if store_defaults else PAPERS_OPTIMIZER
    if threads:
        torch.set_num_threads(threads)
    common: dict[str, Any] = {
        "family": family,
        "units": units,
        "hidden_layers": hidden_layers,
        "tasks": tasks,
        "steps": steps,
        "optimizer": {
            "name": optimizer,
            "learning_rate": learning_rate or default.learning_rate,
            "decay": decay,
            "epsilon": epsilon,
        },
        "activation": activation,
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
        "rehearsed": {
            "kept_rows": kept_rows,
            "logit_share": logit_share,
            "own_ratio": own_ratio,
            "consolidation": consolidation,
        },
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


Draws = Annotated[str, typer.Option(help="Draws of the jobs, with commas.")]
Only = Annotated[str, typer.Option(help="Only these, by name and with commas; default: all.")]


def _on_draws(run: Callable[[Path, list[int], list[str]], Path], results: Path, draws: str, only: str) -> None:
    """Run jobs on one thread, so that a figure does not depend on the machine's cores."""
    import torch

    torch.set_num_threads(1)
    chosen = [name.strip() for name in only.split(",") if name.strip()]
    typer.echo(run(results, [int(draw) for draw in draws.split(",")], chosen))


@experiments.command("defaults")
def defaults(
    draws: Draws = "0,1",
    only: Only = "",
    results: Annotated[Path, typer.Option(help="Where the results go.")] = Path("docs/results/defaults"),
) -> None:
    """Change one default at a time on all development jobs; resumable."""
    from experiments.defaults import run

    _on_draws(run, results, draws, only)


@experiments.command("learning")
def learning(
    draws: Draws = "3,4,5",
    only: Only = "",
    results: Annotated[Path, typer.Option(help="Where the results go.")] = Path("docs/results/learning"),
) -> None:
    """Measure what the defaults learn against what people use today; resumable. Needs river for `rows`."""
    from experiments.learning import run

    _on_draws(run, results, draws, only)


_RESULTS = Path("docs/results")
Seeds = Annotated[str, typer.Option(help="Of everything drawn: one run for each.")]
Results = Annotated[Path | None, typer.Option(help="Where the results go; default: docs/results/NAME.")]
Threads = Annotated[int, typer.Option(help="Threads; 0 leaves torch's default.")]
Again = Annotated[bool, typer.Option(help="Run also what has a result already.")]


def _run_all(
    experiment: str,
    configs: Iterable[Any],
    run: Callable[[Any, Path], dict[str, Any]],
    results: Path | None,
    threads: int,
    again: bool,
) -> None:
    """Run what has no result yet, and draw all that have one.

    Raises:
        ConfigError: There is a result of that name with other settings.
    """
    import torch

    from experiments.report import check_settings
    from experiments.summaries import summarise

    folder = results or _RESULTS / experiment
    if threads:
        torch.set_num_threads(threads)
    for config in configs:
        path = folder / f"{config.name}.json"
        if again or not path.exists():
            run(config, folder)
        else:
            check_settings(path, config)
    typer.echo(f"Plot: {summarise(experiment, folder)}")


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]


@experiments.command("rotating-mnist")
def rotating_mnist(
    gaps: Annotated[bool, typer.Option(help="Leave every second twentieth of a turn out of training.")] = False,
    turns: Annotated[int, typer.Option(help="How many.")] = 5,
    seeds: Seeds = "0,1,2",
    results: Results = None,
    threads: Threads = 0,
    again: Again = False,
) -> None:
    """Learn digits that turn slowly: no context, one for each tenth of a turn, mixtures, powers."""
    from experiments.rotating import METHODS, RotatingConfig, run

    configs = (
        RotatingConfig(method=method, gaps=gaps, turns=turns, seed=seed)
        for seed in _numbers(seeds)
        for method in METHODS
    )
    _run_all("rotating-mnist", configs, run, results, threads, again)


@experiments.command("personalisation")
def personalisation(
    drift: Annotated[str, typer.Option(help="What users differ in: permuted (labels) or turned.")] = "permuted",
    users: Annotated[int, typer.Option(help="How many.")] = 50,
    rows: Annotated[int, typer.Option(help="Of each user.")] = 100,
    seeds: Seeds = "0,1,2",
    results: Results = None,
    threads: Threads = 0,
    again: Again = False,
) -> None:
    """Learn many related tasks with few rows each, and compare what they share."""
    from experiments.personalisation import METHODS, PersonalConfig, run

    values = {"drift": drift, "users": users, "rows": rows}
    rates = {"separate": 2e-2, "separate-8x": 6e-3}  # as tuned on seed 0, like the stores' 2e-3
    configs = (
        validated(PersonalConfig, values | {"method": method, "seed": seed, "learning_rate": rates.get(method, 2e-3)})
        for seed in _numbers(seeds)
        for method in METHODS
    )
    _run_all("personalisation", configs, run, results, threads, again)


@experiments.command("incremental")
def incremental(
    dataset: Annotated[str, typer.Option(help="mnist, or cifar10.")] = "mnist",
    steps: Annotated[int, typer.Option(help="Of each block.")] = 500,
    seeds: Seeds = "0,1,2",
    results: Results = None,
    threads: Threads = 0,
    again: Again = False,
) -> None:
    """Learn five blocks of two classes under the same two outputs, one block after another."""
    from experiments.incremental import METHODS, IncrementalConfig, run

    configs = (
        validated(IncrementalConfig, {"method": method, "dataset": dataset, "steps": steps, "seed": seed})
        for seed in _numbers(seeds)
        for method in METHODS
    )
    _run_all("incremental", configs, run, results, threads, again)


@experiments.command("locate")
def locate(
    tasks: Annotated[int, typer.Option(help="How many permutations.")] = 50,
    steps: Annotated[int, typer.Option(help="Updates of 128 rows a task.")] = 300,
    seeds: Seeds = "0,1,2",
    results: Results = None,
    threads: Threads = 0,
    again: Again = False,
) -> None:
    """Measure the share of tasks found from 1, 4 and 16 rows without a key."""
    from experiments.located import LocatedConfig, run

    configs = (LocatedConfig(tasks=tasks, steps=steps, seed=seed) for seed in _numbers(seeds))
    _run_all("locate", configs, run, results, threads, again)


@experiments.command("capacity")
def fill(
    units: Annotated[str, typer.Option(help="Of each hidden layer: one run for each.")] = "128,256,512",
    tasks: Annotated[int, typer.Option(help="How many permutations.")] = 100,
    steps: Annotated[int, typer.Option(help="Updates of 128 rows a task.")] = 200,
    evaluate_every: Annotated[int, typer.Option(help="Tasks between two measurements of all tasks.")] = 5,
    seeds: Seeds = "0",
    results: Results = None,
    threads: Threads = 0,
    again: Again = False,
) -> None:
    """Measure the accuracy as a store fills, and the store's own forecast of it."""
    from experiments.filling import CapacityConfig, run

    configs = (
        CapacityConfig(units=width, tasks=tasks, steps=steps, evaluate_every=evaluate_every, seed=seed)
        for seed in _numbers(seeds)
        for width in _numbers(units)
    )
    _run_all("capacity", configs, run, results, threads, again)


@experiments.command("variants")
def variants(
    only: Annotated[str, typer.Option(help="Names, with commas; default: all.")] = "",
    seeds: Seeds = "0,1,2",
    results: Results = None,
    threads: Threads = 0,
    again: Again = False,
) -> None:
    """Try other ways to more tasks in the same weights, each alone."""
    from experiments.variants import VARIANTS, VariantConfig, run

    names = [name for name in only.split(",") if name] or list(VARIANTS)
    if unknown := [name for name in names if name not in VARIANTS]:
        raise typer.BadParameter(f"{', '.join(unknown)}; there are {', '.join(VARIANTS)}")
    configs = (
        validated(VariantConfig, {"label": name, "seed": seed} | VARIANTS[name])
        for seed in _numbers(seeds)
        for name in names
    )
    _run_all("variants", configs, run, results, threads, again)


@experiments.command("intrinsic-dimension")
def intrinsic_dimension(
    units: Annotated[int, typer.Option(help="Of each hidden layer.")] = 256,
    seeds: Seeds = "0",
    results: Results = None,
    threads: Threads = 0,
    again: Again = False,
) -> None:
    """Measure the directions of the weights that a task needs, and the weights that can go after training."""
    from experiments.intrinsic import IntrinsicConfig, run

    configs = (IntrinsicConfig(units=units, seed=seed) for seed in _numbers(seeds))
    _run_all("intrinsic-dimension", configs, run, results, threads, again)


@experiments.command("out-of-scope")
def out_of_scope(
    draws: Annotated[str, typer.Option(help="Seeds, with commas.")] = "3,4,5",
    per_class: Annotated[str, typer.Option(help="Sentences of an intent, with commas.")] = "10,30",
    results: Annotated[Path, typer.Option(help="The file.")] = Path("docs/results/quality/out-of-scope.json"),
) -> None:
    """Tell sentences of no intent from a task's own, by CLINC150's."""
    from experiments.out_of_scope import run

    found = run(_numbers(draws), tuple(_numbers(per_class)), results)
    for name, values in found["jobs"].items():
        typer.echo(name)
        for field, value in values.items():
            typer.echo(f"  {field}: {value:.4f}")


if __name__ == "__main__":
    experiments()
