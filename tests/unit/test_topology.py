"""The table of stages and its picture."""

from __future__ import annotations

import re

import pytest

from fairlane.schemas.topics import TOPICS
from fairlane.streams.render import mermaid
from fairlane.streams.topology import STAGES, StageSpec, on_engines, stage


def test_a_stage_is_found_by_its_name_and_an_unknown_one_is_told_with_those_that_exist() -> None:
    assert stage("settle").engine == "faust"
    with pytest.raises(KeyError, match="no stage nowhere; there are gate, dispatcher"):
        stage("nowhere")


def test_a_stage_that_can_run_on_either_engine_runs_on_the_one_that_is_set() -> None:
    engines = {row.name: on_engines(row, "gate=faust, settle=loop").engine for row in STAGES}
    assert engines == {row.name: row.engine for row in STAGES} | {"gate": "faust", "settle": "loop"}


@pytest.mark.parametrize("engines", ["worker=faust", "sinks=loop", "gate=sink", "gate", "nowhere=loop"])
def test_an_engine_that_a_stage_cannot_run_on_is_refused(engines: str) -> None:
    with pytest.raises(ValueError, match="with faust or loop for gate or settle"):
        on_engines(stage("gate"), engines)


def test_every_topic_of_the_registry_is_read_or_written_by_a_stage() -> None:
    named = {topic.name for row in STAGES for topic in (*row.inputs, *row.follows, *row.outputs)}
    named |= {row.dead_letter.name for row in STAGES if row.dead_letter is not None}
    assert named == {topic.name for topic in TOPICS}


@pytest.mark.parametrize("row", STAGES, ids=lambda row: row.name)
def test_the_picture_has_every_stage_with_its_inputs_and_outputs(row: StageSpec) -> None:
    picture = mermaid()
    assert f"<b>{row.name}</b> ({row.engine})" in picture
    for topic in row.inputs:
        assert f"{_node(topic.name)} --> stage_{row.name}" in picture
    for topic in row.outputs:
        assert f"stage_{row.name} --> {_node(topic.name)}" in picture


def _node(name: str) -> str:
    return re.sub(r"\W+", "_", name).strip("_")
