"""Every shipped role, protocol and example job loads, and says what it must."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarm.agents.roles import find_role, parse_role
from swarm.errors import SpecError
from swarm.protocol import WORD, create_protocol, find_protocol
from swarm.runtime.prepare import prepare
from swarm.shipped import shipped
from swarm.spec import ProtocolSpec, load_spec

ROLES = sorted(shipped("roles").glob("*.md"))
JOBS = sorted(shipped("examples").glob("*.yaml"))
PROTOCOLS = sorted(shipped("protocols").glob("[a-z]*.py"))


@pytest.mark.parametrize("path", ROLES, ids=lambda path: path.stem)
def test_a_role_file_loads_under_its_own_name(path: Path) -> None:
    role, text = find_role(path.stem, {})
    assert role.name == path.stem and text == path.read_text(encoding="utf-8")
    assert role.max_tokens < role.window and role.prompt


@pytest.mark.parametrize("path", PROTOCOLS, ids=lambda path: path.stem)
def test_the_roles_of_a_protocol_exist_and_may_write_its_notes(path: Path) -> None:
    module, _ = find_protocol(path.stem)
    spec = load_spec(JOBS[0]).model_copy(update={"protocol": ProtocolSpec(name=path.stem)})
    protocol, digest = create_protocol(spec)
    assert (module.__doc__ or "").strip() and len(digest) == 64
    written = {kind for name in protocol.roles for kind in find_role(name, {})[0].writes or ()}
    assert set(protocol.note_kinds) <= {*written, WORD}, "a person's word is no agent's"


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_an_example_loads_and_says_how_it_is_run(path: Path) -> None:
    spec = load_spec(path)
    assert spec.name == path.stem
    head = path.read_text(encoding="utf-8").partition("\nname:")[0]
    assert all(line.startswith("#") for line in head.splitlines())
    assert f"swarm run examples/{path.name}" in head


@pytest.mark.model
@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_an_example_fits_its_windows(path: Path) -> None:
    job = prepare(load_spec(path))
    assert job.overhead.keys() == job.roles.keys()


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("You read.", "front matter"),
        ("---\nname: reader\nabout: reads: all\n---\n", "roles/reader.md, line 3, column 13: is not YAML: mapping values"),
        ("---\njust words\n---\n", "no settings"),
        ("---\nname: reader\nabout: reads\nwindw: 3\n---\n", "windw"),
        ("---\nname: Reader\nabout: reads\n---\n", "name"),
        ("---\nname: reader\n---\n", "about: is missing"),
    ],
)
def test_a_wrong_role_file_is_named_with_its_fault(text: str, what: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_role(text, "roles/reader.md")
    assert what in str(caught.value) and "roles/reader.md" in str(caught.value)


@pytest.mark.parametrize("line", ["", "reads:\n", "reads: []\n", "reads: [row]\n"])
def test_a_role_that_does_not_name_what_people_say_hears_nobody(line: str) -> None:
    assert not parse_role(f"---\nname: reader\nabout: reads\n{line}---\nRead.\n", "roles/reader.md").hears


def test_a_role_file_must_carry_its_own_name(tmp_path: Path) -> None:
    file = tmp_path / "mine.md"
    file.write_text("---\nname: other\nabout: reads\n---\nRead.\n")
    with pytest.raises(SpecError, match="other"):
        find_role("reader", {"reader": str(file)})
