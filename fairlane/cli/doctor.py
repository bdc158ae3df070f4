"""``fairlane doctor``: what is missing on this machine, and how to get it."""

from __future__ import annotations

import click

from fairlane.cli.display import JSON_OPTION, print_json, print_table


@click.command("doctor", epilog="Example:  fairlane doctor")
@JSON_OPTION
def command(as_json: bool) -> int:
    """Look at what `fairlane up` needs on this machine; exit 1 if anything is missing.

    Python, Java, jars, engines, ports, disk, memory, and whether the services that are configured answer.
    """
    import asyncio
    from dataclasses import asdict

    from fairlane.devstack.doctor import examine
    from fairlane.settings import load_settings

    findings = asyncio.run(examine(load_settings()))
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        print_table(["what", "verdict", "found", "what to do"], [
            (f.subject, f.verdict, f.found, f.hint) for f in findings
        ])  # fmt: skip
    return 1 if any(finding.verdict == "missing" for finding in findings) else 0
