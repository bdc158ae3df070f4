"""``fairlane send``: one prompt, or many requests from stdin."""

from __future__ import annotations

import asyncio
import sys
import uuid
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import click

from fairlane.cli.display import JSON_OPTION

if TYPE_CHECKING:
    from fairlane.cli.request_input import Envelope, Prepared
    from fairlane.cli.sending import SendOptions

IN_FLIGHT_DEFAULT = 256
PRIORITIES = ("critical", "high", "normal", "low", "batch")


@click.command(
    "send",
    epilog='Examples:  fairlane send "Hello" --tenant acme --wait   |   fairlane send - --tenant acme < requests.jsonl',
)
@click.argument("prompt")
@click.option("--tenant", help="The tenant that asks; needed unless every event on stdin names one.")
@click.option("--model", help="A catalog model or a route.  [default: auto]")
@click.option("--max-tokens", type=click.IntRange(min=1), help="The most tokens to answer with.")
@click.option("--priority", type=click.Choice(PRIORITIES), help="The band to wait in.  [default: normal]")
@click.option("--timeout-ms", type=click.IntRange(1, 86_400_000), help="Give up after this long.")
@click.option("--idempotency-key", help="Requests with the same key are answered, and billed, once.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="A label for reports; may be repeated.")
@click.option("--stream", is_flag=True, help="Print the answer as it is made (implies --wait).")
@click.option("--wait", is_flag=True, help="Wait for the results; exit 1 unless all succeeded.")
@click.option(
    "--wait-s", type=click.FloatRange(min=0, min_open=True), default=660.0, show_default=True,
    help="Stop waiting when nothing came for this long.",
)  # fmt: skip
@click.option(
    "--in-flight", type=click.IntRange(1, 10_000), default=IN_FLIGHT_DEFAULT, show_default=True,
    help="How many unanswered (without --wait: unacknowledged) requests there may be.",
)  # fmt: skip
@JSON_OPTION
@click.pass_context
def command(
    ctx: click.Context, /, prompt: str, tenant: str | None, labels: tuple[str, ...], wait: bool, wait_s: float,
    in_flight: int, as_json: bool, **envelope_options: Any,
) -> None:  # fmt: skip
    """Send PROMPT as a request, or with "-" one request for each line of JSON on stdin.

    A line is a whole request event or a chat-completions body. What an event says itself goes
    before the options.
    """
    from fairlane.cli.request_input import Envelope, parse_labels
    from fairlane.cli.sending import SendOptions

    envelope = Envelope(tenant_id=tenant, labels=parse_labels(labels), **envelope_options)
    many = prompt == "-"
    if many and envelope.stream and not as_json:
        raise click.UsageError("--stream prints one answer as it is made; with many requests add --json")
    if many and envelope.idempotency_key:
        raise click.UsageError("--idempotency-key would make many requests one; put a key in each event")
    options = SendOptions(wait_s=wait_s, stream=envelope.stream, as_json=as_json, many=many, in_flight=in_flight)
    well = asyncio.run(_send(prompt, envelope, options, wait=wait or envelope.stream))
    ctx.exit(0 if well else 1)


async def _send(prompt: str, envelope: Envelope, options: SendOptions, *, wait: bool) -> bool:
    from fairlane.cli.answers import AnswerFollower
    from fairlane.cli.connections import log_publisher, log_reader, resolved_settings
    from fairlane.cli.request_input import from_prompt
    from fairlane.cli.sending import Sending

    requests = _from_stdin(envelope) if options.many else _only(from_prompt(prompt, envelope, _new_id))
    settings = resolved_settings()
    prefix = settings.topic_prefix
    async with log_publisher(settings, "fairlane-send") as publisher:
        if not wait:
            return await Sending(publisher, None, prefix, options).run(requests)
        async with (
            log_reader(settings) as reader,
            AnswerFollower(reader, prefix, chunks=options.stream) as follower,
        ):
            return await Sending(publisher, follower, prefix, options).run(requests)


async def _from_stdin(envelope: Envelope) -> AsyncIterator[Prepared]:
    from fairlane.cli.request_input import from_line
    from fairlane.cli.stdin_lines import lines_of

    if sys.stdin.isatty():
        click.echo("reading one JSON request a line from the terminal; end with Ctrl-D", err=True)
    number = 0
    async for line in lines_of():
        number += 1
        prepared = from_line(line, number, envelope, _new_id)
        if prepared is not None:
            yield prepared


async def _only(prepared: Prepared) -> AsyncIterator[Prepared]:
    yield prepared


def _new_id() -> str:
    return f"r-{uuid.uuid4().hex}"
