"""``fairlane sim``: the whole chain in one process on virtual time, with faults, thousands of times."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from fairlane.cli.display import JSON_OPTION, print_json, print_table, progress

if TYPE_CHECKING:
    from fairlane.devstack.simulation.run import Outcome, Plan
    from fairlane.devstack.simulation.runner import Tally

SHOWN = 5
"""Violations shown of one seed, and failing seeds that are shrunk."""


@click.command("sim", epilog="Example:  fairlane sim --seeds 1000    fairlane sim --seed 42 --trace")
@click.option("--seeds", default=1000, show_default=True, type=click.IntRange(1), help="How many seeds to run.")
@click.option("--from", "first", default=0, show_default=True, type=click.IntRange(0), help="The first seed.")
@click.option("--seed", type=click.IntRange(0), help="Run this one seed again, exactly, and tell what it does.")
@click.option("--trace", is_flag=True, help="With --seed: print everything that happens.")
@click.option("--shrunk", is_flag=True, help="With --seed: only the faults and requests that break its promise.")
@click.option("--mutations", is_flag=True, help="Switch known bugs on, one at a time, and see them found.")
@click.option("--processes", type=click.IntRange(1, 64), help="Processes side by side.  [default: one a core]")
@JSON_OPTION
@click.pass_context
def command(
    context: click.Context,
    seeds: int,
    first: int,
    seed: int | None,
    trace: bool,
    shrunk: bool,
    mutations: bool,
    processes: int | None,
    as_json: bool,
) -> int:
    """Simulate the chain with faults and check every promise; exit 1 if one was broken.

    A seed decides everything: who asks what and when, how long things take, what crashes between which
    two steps, which answers get lost. The same seed does the same again. A seed that fails is printed
    with the fewest faults and requests that still break the same promise; --shrunk runs those again. Over 100 seeds
    or more it also fails if under 90 % of the good requests succeeded.
    """
    _refuse_what_would_be_ignored(context)
    if seed is not None:
        return _one(seed, trace=trace, shrunk=shrunk, as_json=as_json)
    return _mutations(first, seeds, as_json) if mutations else _many(first, seeds, processes, as_json)


def _refuse_what_would_be_ignored(context: click.Context) -> None:
    given = {
        name for name in context.params if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    }
    names = {"first": "--from"} | {name: f"--{name}" for name in ("seeds", "mutations", "processes", "trace", "shrunk")}
    if "seed" in given:
        ignored, why = (
            given & {"seeds", "first", "mutations", "processes"},
            "does not go with --seed, which runs one seed",
        )
    else:
        ignored, why = given & {"trace", "shrunk"}, "needs --seed"
    if not ignored and "mutations" in given:
        ignored, why = given & {"processes"}, "does not go with --mutations, which runs in one process"
    if ignored:
        raise click.UsageError(f"{names[min(ignored)]} {why}")


def _many(first: int, seeds: int, processes: int | None, as_json: bool) -> int:
    from os import cpu_count
    from time import monotonic

    from fairlane.devstack.simulation.run import plan
    from fairlane.devstack.simulation.runner import SUCCESS_FLOOR, Tally, run_seeds, shrink

    total, started = Tally(), monotonic()
    with progress("seeds", seeds) as advance:
        for tally in run_seeds(first, seeds, processes or cpu_count() or 1):
            total.add(tally)
            advance(tally.seeds)
    took_s = monotonic() - started
    shrunk = [shrink(plan(outcome.seed)) for outcome in total.failed[:SHOWN]]
    if as_json:
        print_json(_tally_document(total, first, took_s) | {"shrunk": [_plan_document(each) for each in shrunk]})
    else:
        for outcome, smaller in zip(total.failed, shrunk, strict=False):
            _tell_failure(outcome, smaller)
        for outcome in total.failed[SHOWN:]:
            click.echo(f"seed {outcome.seed}: {outcome.violations[0]}")
        figures = total.figures
        click.echo(
            f"{total.seeds} seeds from {first}, {len(total.failed)} broke a promise; {figures['requests']} requests, "
            f"{figures['good_succeeded']} of {figures['good']} good ones succeeded, {figures['calls']} calls, "
            f"{figures['forgiven']} late duplicates forgiven; {total.virtual_s:.0f} virtual seconds in {took_s:.1f} s "
            f"({total.seeds / took_s:.0f} seeds/s)"
        )
        if total.proves_too_little:
            click.echo(
                f"only {total.success_share:.1%} of the good requests succeeded, and {SUCCESS_FLOOR:.0%} must: "
                "a chain that answers less proves little"
            )
    return 1 if total.failed or total.proves_too_little else 0


def _one(seed: int, *, trace: bool, shrunk: bool, as_json: bool) -> int:
    from fairlane.devstack.simulation.run import plan, simulate
    from fairlane.devstack.simulation.runner import shrink

    todo = plan(seed)
    outcome = simulate(todo, tell=trace and not shrunk)
    smaller = shrink(todo) if outcome.violations else None
    if shrunk and smaller is None:
        click.echo(f"seed {seed} keeps every promise: there is nothing to shrink", err=True)
    if shrunk and smaller is not None:
        todo = smaller
        outcome = simulate(todo, tell=trace)
    if as_json:
        document = _plan_document(todo) | {
            "violations": outcome.violations,
            "figures": dict(outcome.figures),
            "fingerprint": outcome.fingerprint,
        }
        print_json(document | ({"trace": outcome.story} if trace else {}))
    else:
        for line in outcome.story:
            click.echo(line)
        if smaller is not None:
            _tell_failure(outcome, smaller)
        click.echo(
            f"seed {seed}: {todo.shape}; {len(todo.arrivals)} records, {len(todo.faults)} faults, "
            f"{outcome.virtual_s:.1f} virtual seconds, history {outcome.fingerprint}: "
            + (f"{len(outcome.violations)} violations" if outcome.violations else "every promise kept")
        )
    return 1 if outcome.violations else 0


def _mutations(first: int, seeds: int, as_json: bool) -> int:
    from fairlane.devstack.simulation.mutations import MUTATIONS
    from fairlane.devstack.simulation.runner import catch

    with progress("mutations", len(MUTATIONS)) as advance:
        caught = []
        for mutation in MUTATIONS:
            caught.append(catch(mutation, first, seeds))
            advance(1)
    if as_json:
        print_json([
            {"mutation": each.mutation.name, "seed": each.seed, "broken": each.broken,
             "also_found_by": each.mutation.also} for each in caught
        ])  # fmt: skip
    else:
        print_table(["mutation", "the bug", "first seed", "promises broken", "also found by"], [
            (each.mutation.name, each.mutation.what, "not found" if each.seed is None else each.seed,
             ", ".join(each.broken), each.mutation.also) for each in caught
        ])  # fmt: skip
    return 1 if any(each.seed is None for each in caught) else 0


def _tell_failure(outcome: Outcome, smaller: Plan) -> None:
    click.echo(f"seed {outcome.seed} broke a promise:")
    for violation in outcome.violations[:SHOWN]:
        click.echo(f"  {violation}")
    click.echo(f"  enough for it: {smaller.shape}, {len(smaller.faults)} faults and {len(smaller.arrivals)} records:")
    lines = [(fault.at_s, str(fault)) for fault in smaller.faults]
    lines += [(arrival.at_s, str(arrival)) for arrival in smaller.arrivals]
    for _, line in sorted(lines):
        click.echo(f"    {line}")
    click.echo(f"  again: fairlane sim --seed {outcome.seed} --shrunk --trace, or all of it: without --shrunk")


def _plan_document(todo: Plan) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "seed": todo.seed,
        "shape": asdict(todo.shape),
        "faults": [asdict(fault) for fault in todo.faults],
        "records": len(todo.arrivals),
        "arrivals": [
            {
                "at_s": each.at_s,
                "topic": "commands" if each.cancels else "requests",
                "value": each.value.decode("utf-8", "backslashreplace"),
            }
            for each in todo.arrivals
        ],
    }


def _tally_document(total: Tally, first: int, took_s: float) -> dict[str, Any]:
    return {
        "first": first,
        "seeds": total.seeds,
        "success_share": total.success_share,
        "proves_too_little": total.proves_too_little,
        "failed": [{"seed": outcome.seed, "violations": outcome.violations} for outcome in total.failed],
        "figures": dict(total.figures),
        "virtual_s": total.virtual_s,
        "took_s": took_s,
    }
