"""The Postgres that lives in a folder: where it can live, and what it says where it cannot."""

from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from orchestrator import database
from orchestrator.domain.errors import Misconfigured


def test_lives_in_a_folder_whose_name_a_shell_would_take_apart(tmp_path):
    folder = tmp_path / "Jane's data & more (1); café"

    embedded = database.Embedded(folder)

    apart = Path(conninfo_to_dict(embedded.dsn)["host"])
    assert apart.is_dir()
    try:
        with psycopg.connect(embedded.dsn) as connection:
            row = connection.execute("SELECT current_database()").fetchone()
        assert row == (database.NAME,)
    finally:
        embedded.close()
    assert not apart.exists(), "where the socket lay goes with the server"


@pytest.mark.parametrize("name", ['a"b', "a$b", "a`b", "a\\b"])
def test_says_before_it_makes_anything_that_a_folder_cannot_be_its_own(tmp_path, name):
    with pytest.raises(Misconfigured, match="Name another with --data"):
        database.Embedded(tmp_path / name)

    assert not (tmp_path / name).exists()
