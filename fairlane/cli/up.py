"""``fairlane up``: the whole stack on this machine, under one supervisor."""

from __future__ import annotations

import click

from fairlane.cli.display import JSON_OPTION, print_json


@click.command("up", epilog="Example:  fairlane up --detach && fairlane send 'Say hello'")
@click.option("--detach", is_flag=True, help="Return when all is ready, and leave it running.")
@click.option("--detached", is_flag=True, hidden=True, help="It is the one that --detach started.")
@JSON_OPTION
def command(detach: bool, detached: bool, as_json: bool) -> int:
    """Start Kafka, Redis, ClickHouse, the model simulator and every stage, and keep them running.

    A service whose address is set (FAIRLANE_KAFKA_BOOTSTRAP, FAIRLANE_REDIS_URL, FAIRLANE_CLICKHOUSE_URL,
    FAIRLANE_SIMULATOR_URL) is used as it is, and not started. The first run fetches what is missing. Ctrl-C stops
    everything in order; what is in flight is finished or handed back. With --json, what is ready is printed
    as `fairlane status --json` does.
    """
    from pathlib import Path

    import stamina

    from fairlane.devstack.console import ConsoleReport
    from fairlane.devstack.running import run_stack, start_detached
    from fairlane.devstack.state import load_state
    from fairlane.devstack.status import StackStatus
    from fairlane.logs import configure_logging
    from fairlane.settings import load_settings

    settings = load_settings()
    if detach:
        code = start_detached(settings, lambda line: click.echo(line, err=True))
        state = load_state(Path(settings.state_dir))
        if code == 0 and as_json and state is not None:
            print_json(StackStatus.of_state(state).as_object())
        return code
    # What libraries have to say goes to stderr, and only when something is wrong.
    configure_logging("up", "supervisor", "warning")
    # A retry that helps is no news here, and one that does not ends as an error.
    stamina.instrumentation.set_on_retry_hooks([])
    with ConsoleReport() as report:

        def ready() -> None:
            report.close()
            if as_json and (state := load_state(Path(settings.state_dir))) is not None:
                print_json(StackStatus.of_state(state).as_object())
            click.echo(f"all is ready; {'' if detached else 'Ctrl-C or '}`fairlane down` stops it", err=True)

        run_stack(settings, report, ready)
    return 0
