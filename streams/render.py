"""The picture of the topology: a Mermaid flowchart from the table, for README.md.

``python -m fairlane.streams.render`` prints it; ``make docs`` puts it where it belongs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from fairlane.schemas.topics import TopicSpec
from fairlane.streams.topology import STAGES, StageSpec


def mermaid(stages: Iterable[StageSpec] = STAGES) -> str:
    """Stages as boxes, topics as rounded ones; dotted lines are topics a stage follows without a group.

    What every stage follows is drawn once.
    """
    return "\n".join(["flowchart LR", *_lines(tuple(stages))])


def _lines(stages: tuple[StageSpec, ...]) -> Iterator[str]:
    topics: dict[str, TopicSpec] = {}
    for stage in stages:
        letters = (stage.dead_letter,) if stage.dead_letter is not None else ()
        for topic in (*stage.inputs, *stage.follows, *stage.outputs, *letters):
            topics.setdefault(topic.name, topic)
    for topic in topics.values():
        kind = "public" if topic.public else "internal"
        yield f'    {_node(topic.name)}(["{_text(topic.name)}"]):::{kind}'
    for stage in stages:
        yield f'    {_box(stage)}["<b>{stage.name}</b> ({stage.engine})<br/>{_text(stage.purpose)}"]:::stage'
    by_all = set.intersection(*({topic.name for topic in stage.follows} for stage in stages))
    if by_all:
        yield '    every_stage(["every stage, live"]):::stage'
        yield from (f"    {_node(name)} -.-> every_stage" for name in topics if name in by_all)
    if any(stage.engine == "sink" for stage in stages):
        yield "    clickhouse[(ClickHouse)]:::stage"
    for stage in stages:
        yield from (f"    {_node(topic.name)} --> {_box(stage)}" for topic in stage.inputs)
        yield from (
            f"    {_node(topic.name)} -.-> {_box(stage)}" for topic in stage.follows if topic.name not in by_all
        )
        yield from (f"    {_box(stage)} --> {_node(topic.name)}" for topic in stage.outputs)
        if stage.dead_letter is not None:
            yield f"    {_box(stage)} -- dead letters --> {_node(stage.dead_letter.name)}"
        if stage.engine == "sink":
            yield f"    {_box(stage)} --> clickhouse"
    yield "    classDef stage fill:#e8f0fe,stroke:#3367d6,color:#000"
    yield "    classDef public fill:#e6f4ea,stroke:#188038,color:#000"
    yield "    classDef internal fill:#f1f3f4,stroke:#5f6368,color:#000"


def _box(stage: StageSpec) -> str:
    return "stage_" + _node(stage.name)


def _node(name: str) -> str:
    return re.sub(r"\W+", "_", name).strip("_")


def _text(text: str) -> str:
    return text.replace("{", "&lt;").replace("}", "&gt;")


if __name__ == "__main__":
    print(mermaid())  # noqa: T201 - printing is what this module does when it is run
